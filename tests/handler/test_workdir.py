"""The private directory of an attempt, and its removal when its owner was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler.workdir import private_directory, sweep
from tests.conftest import ROOT
from tests.servers import PATIENCE_S

OWNER = """
import sys, time
from pathlib import Path
from handler.workdir import private_directory
with private_directory(Path(sys.argv[1])) as directory:
    (directory / "asset").write_bytes(b"x")
    print(directory, flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner(root: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that holds a directory until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(root)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_is_private_whatever_the_umask_and_gone_afterwards(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with private_directory(tmp_path / "work") as directory, private_directory(tmp_path / "work") as other:
            assert directory.parent == tmp_path / "work" and directory != other
            assert [path.name for path in directory.iterdir()] == [".lock"]
            assert directory.stat().st_mode & 0o777 == 0o700
            (directory / "deep").mkdir()
            (directory / "deep" / "file").write_bytes(b"x")
            assert sweep(tmp_path / "work") == 0, "a sweep keeps what this process holds"
            assert directory.exists()
    finally:
        os.umask(before)
    assert not directory.exists()


@pytest.mark.slow
def test_no_depth_and_no_name_of_folders_keeps_it(tmp_path: Path) -> None:
    """As a hijacked FFmpeg can make them: deeper than recursion and paths go, without permissions, beside links."""
    here = Path.cwd()
    with private_directory(tmp_path) as directory:
        try:
            os.chdir(directory)
            for _ in range(3000):
                Path("d").mkdir()
                os.chdir("d")
            Path("file").write_bytes(b"x")
        finally:
            os.chdir(here)
        (directory / "closed" / "inner").mkdir(parents=True)
        for folder in (directory / "closed" / "inner", directory / "closed"):
            folder.chmod(0)
        (tmp_path / "kept").mkdir()
        (directory / "link").symlink_to(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["kept"]


def test_it_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), private_directory(tmp_path) as directory:
        raise RuntimeError
    assert not directory.exists()


def test_a_sweep_removes_a_directory_once_its_owner_is_killed(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, directory):
        assert sweep(tmp_path) == 0
        assert (directory / "asset").exists()
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        assert directory.exists()
        assert sweep(tmp_path) == 1
        assert not directory.exists()


def test_a_sweep_removes_only_directories_of_attempts(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    assert sweep(root) == 0, "it makes the folder"
    (root / "attempt-without-lock").mkdir()
    (root / "other").mkdir()
    (root / "attempt-file").write_bytes(b"x")
    assert sweep(root) == 1
    assert {path.name for path in root.iterdir()} == {".lock", "other", "attempt-file"}


def test_directories_may_vanish_during_a_sweep(tmp_path: Path) -> None:
    done = threading.Event()
    failures: list[BaseException] = []

    def come_and_go() -> None:
        while not done.is_set():
            try:
                with private_directory(tmp_path):
                    pass
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(400):
            sweep(tmp_path)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
