"""Commands, their children, confined functions and the worker itself: whatever takes too much ends the job."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffmpeg_ops.engine import confined, memory, process
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine import confined_functions
from tests.servers import PATIENCE_S, eventually
from wire.errors import JobTooLarge, WorkerError

MB = 1_000_000
START = "import subprocess, sys; subprocess.run([sys.executable, '-ISc', sys.argv[1]])"
HOLD = "held = bytearray(b'1') * {bytes}; print('ready', flush=True); import time; time.sleep(600)"


@pytest.fixture
def room() -> Callable[[int], int]:
    """A limit that leaves the commands so many bytes, for a large picture."""
    return lambda free: memory._resident_bytes(os.getpid()) + free  # not with what other tests have started


def hold(work: Work, held: int, *before: str) -> None:
    command = [sys.executable, "-ISc", *before, HOLD.format(bytes=held)]
    process.run(command, work, timeout_s=PATIENCE_S, file_bytes=MB, on_output=lambda line: None)


def test_a_command_that_takes_too_much_is_killed(work: Work, room: Callable[[int], int]) -> None:
    work.large.set()
    limit = room(100 * MB)
    with memory.limited(work, limit), pytest.raises(JobTooLarge) as caught:
        hold(work, 300 * MB)
    assert f"{limit / 1e9:.3g} GB" in caught.value.message, "the limit is named"
    assert (caught.value.code, caught.value.retryable) == ("job_too_large", False)
    assert not work.processes


def test_what_a_command_has_started_counts(work: Work, room: Callable[[int], int]) -> None:
    work.large.set()
    with memory.limited(work, room(100 * MB)), pytest.raises(JobTooLarge):
        hold(work, 300 * MB, START)


def test_a_confined_function_counts(work: Work, room: Callable[[int], int]) -> None:
    work.large.set()
    with memory.limited(work, room(150 * MB)), pytest.raises(JobTooLarge):
        confined.run(
            confined_functions.hold, {"bytes": 300 * MB}, work, readable=[], timeout_s=PATIENCE_S,
            memory_bytes=1000 * MB, data_bytes=0,
        )  # fmt: skip


def test_what_the_worker_itself_takes_counts(work: Work, room: Callable[[int], int]) -> None:
    work.large.set()
    with memory.limited(work, room(100 * MB)):
        held = np.ones(300 * MB, np.uint8)
        eventually(lambda: work.stop.reason is not None)
        assert held.any() and isinstance(work.stop.reason, JobTooLarge)


def test_small_pictures_get_half(work: Work, room: Callable[[int], int]) -> None:
    limit = 2 * room(0) + 200 * MB  # half of it leaves 100 MB
    with memory.limited(work, limit), pytest.raises(JobTooLarge):
        hold(work, 200 * MB)


def test_a_large_picture_gets_it_all(work: Work, room: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    samples = sampled(monkeypatch)
    work.large.set()
    with memory.limited(work, 2 * room(0) + 400 * MB):
        thread = threading.Thread(target=hold_until_stopped, args=(work,), daemon=True)
        thread.start()
        eventually(lambda: max(samples, default=0) > 200 * MB)
        held = len(samples)
        eventually(lambda: len(samples) > held + 2)
        assert work.stop.reason is None
        work.stop.set(WorkerError())
        thread.join(PATIENCE_S)


def hold_until_stopped(work: Work) -> None:
    with pytest.raises(WorkerError):
        hold(work, 200 * MB)


def test_attempts_share_the_worker(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts have half of the worker's own memory each, so that one does not end for what both take."""
    samples = sampled(monkeypatch)
    monkeypatch.setattr(memory, "_resident_bytes", lambda process_id: 1000 * MB if process_id == os.getpid() else 0)
    other = Work(tmp_path / "other")
    for each in (work, other):
        each.large.set()
    with memory.limited(other, 1100 * MB), memory.limited(work, 600 * MB):
        eventually(lambda: len(samples) > 4)
        assert work.stop.reason is other.stop.reason is None


def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the commands took at each sample."""
    found: list[int] = []
    real = memory.resident_bytes

    def spy(process_ids: set[int]) -> int:
        found.append(real(process_ids))
        return found[-1]

    monkeypatch.setattr(memory, "resident_bytes", spy)
    return found


def test_a_process_that_has_ended_takes_nothing() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    assert memory.resident_bytes([child]) == 0
