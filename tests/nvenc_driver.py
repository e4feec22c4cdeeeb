"""The stand-in for NVIDIA's driver, for tests: built once a session, and a machine of its own for each test."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from ffmpeg_ops.engine import ffmpeg, landlock, probe, process
from tests.emulators import nvenc as stand_in
from tests.emulators.nvenc import debian13


@pytest.fixture(scope="session")
def nvenc_libraries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder with the libraries for an FFmpeg, `installed` or `debian-13`, built once for all processes."""
    if lacking := stand_in.missing():
        reason = f"the NVENC stand-in cannot be built: {lacking} is missing; scripts/setup.sh installs it with CI set"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    @cache
    def built(kind: str) -> Path:
        done = shared / f"nvenc-{kind}"
        with (shared / "nvenc.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                options = debian13.build_options() if kind == "debian-13" else []
                stand_in.build(shared / "nvenc-building", options).rename(done)
        return done

    return built


@pytest.fixture
def nvenc(
    request: pytest.FixtureRequest, nvenc_libraries: Callable[[str], Path], tmp_path: Path
) -> Iterator[stand_in.Driver]:
    """A machine with one GPU, an RTX 4090 unless the test sets another chip, whose FFmpeg is the installed one.

    With the parameter `debian-13` its FFmpeg is that of the worker's image; the test is skipped where it is missing.
    """
    kind = getattr(request, "param", "installed")
    if kind == "debian-13" and not debian13.unpacked():
        pytest.skip("python -m tests.emulators.nvenc.debian13 has not been run")
    process.require("ffmpeg")
    programs = debian13.programs if kind == "debian-13" else stand_in.installed
    driver = stand_in.Driver(tmp_path / "nvenc", nvenc_libraries(kind), programs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{driver.bin}{os.pathsep}{os.environ['PATH']}")
        patch.setattr(landlock, "_SYSTEM", (*landlock._SYSTEM, str(debian13.FOLDER)))
        patch.setattr(landlock, "_DEVICES", (*landlock._DEVICES, str(driver.log_file)))
        _forget_machine()
        yield driver
    _forget_machine()


def _forget_machine() -> None:
    """Drop what was found out about the programs on PATH."""
    for found in (process.find, ffmpeg.version, ffmpeg.is_from, ffmpeg.has_filter):
        found.cache_clear()
    probe._probed.clear()
