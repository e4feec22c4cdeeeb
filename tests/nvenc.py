"""The stand-in for NVIDIA's driver, for tests: built once a session, and a machine of its own for each test."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffmpeg_ops.engine import encoders, ffmpeg, process
from tests.emulators import nvenc as stand_in


@pytest.fixture(scope="session")
def nvenc_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the two libraries. Skips the test where they cannot be built, or fails with CI set."""
    if lacking := stand_in.missing():
        reason = f"the NVENC stand-in cannot be built: {lacking} is missing; scripts/setup.sh installs it with CI set"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "nvenc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shared / "nvenc-built"
        if not done.exists():
            stand_in.build(shared / "nvenc-building").rename(done)
    return done


@pytest.fixture
def nvenc(nvenc_libraries: Path, tmp_path: Path) -> Iterator[stand_in.Driver]:
    """A machine with one GPU, an RTX 4090 unless the test sets another chip, whose FFmpeg is the installed one."""
    process.require("ffmpeg")
    driver = stand_in.Driver(tmp_path / "nvenc", nvenc_libraries, str(process.find("ffmpeg")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{driver.bin}{os.pathsep}{os.environ['PATH']}")
        _forget_machine()
        yield driver
    _forget_machine()


def _forget_machine() -> None:
    """Drop what was found out about the programs on PATH."""
    for found in (process.find, ffmpeg.version, ffmpeg.is_from, ffmpeg.has_filter):
        found.cache_clear()
    encoders._probed.clear()
