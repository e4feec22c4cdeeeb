"""The private directory of an attempt, and who removes it when its owner cannot."""

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


def test_it_is_empty_but_for_its_lock_and_closed_to_others(tmp_path: Path) -> None:
    with private_directory(tmp_path / "work") as directory:
        assert directory.parent == tmp_path / "work"
        assert [path.name for path in directory.iterdir()] == [".lock"]
        assert directory.stat().st_mode & 0o777 == 0o700


def test_no_umask_opens_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with private_directory(tmp_path) as directory:
            assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_it_is_gone_afterwards(tmp_path: Path) -> None:
    with private_directory(tmp_path) as directory:
        (directory / "deep").mkdir()
        (directory / "deep" / "file").write_bytes(b"x")
    assert not directory.exists()


def test_it_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), private_directory(tmp_path) as directory:
        raise RuntimeError
    assert not directory.exists()


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with private_directory(tmp_path) as one, private_directory(tmp_path) as other:
        assert one != other


def test_a_sweep_keeps_what_this_process_holds(tmp_path: Path) -> None:
    with private_directory(tmp_path) as directory:
        assert sweep(tmp_path) == 0
        assert directory.exists()


def test_a_sweep_keeps_what_a_living_owner_holds_and_removes_it_after_a_kill(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, directory):
        assert sweep(tmp_path) == 0
        assert (directory / "asset").exists()
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        assert directory.exists()
        assert sweep(tmp_path) == 1
        assert not directory.exists()


def test_a_sweep_of_nothing_makes_the_folder(tmp_path: Path) -> None:
    assert sweep(tmp_path / "not" / "there") == 0
    assert (tmp_path / "not" / "there").is_dir()


def test_a_sweep_removes_a_directory_whose_lock_was_never_made(tmp_path: Path) -> None:
    (tmp_path / "attempt-early").mkdir()
    assert sweep(tmp_path) == 1


def test_a_sweep_touches_nothing_that_is_not_an_attempts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "attempt-file").write_bytes(b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    assert sweep(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"other", "attempt-file", "outside"}


def test_a_sweep_bears_directories_that_vanish_under_it(tmp_path: Path) -> None:
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


def test_a_directory_that_is_gone_when_its_turn_comes_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attempt-here").mkdir()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([self / "attempt-gone", self / "attempt-here"]))
    assert sweep(tmp_path) == 1
