"""Ends the work of an attempt whose commands and worker together take more memory than allowed.

Sampled, because cgroups are rarely writable in rented containers, and RLIMIT_AS breaks CUDA. What counts is resident
memory, including pages that processes share.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from ffmpeg_ops.operation import Work
from wire.errors import JobTooLarge

log = structlog.get_logger(__name__)

SAMPLE_S = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_lock = threading.Lock()
_limited = 0  # how many attempts share this process


def resident_bytes(process_ids: Iterable[int]) -> int:
    """The resident memory of these processes and all their descendants; those that have ended take none."""
    return sum(_resident_bytes(process_id) for process_id in set(_with_descendants(process_ids)))


@contextmanager
def limited(work: Work, max_bytes: int) -> Iterator[None]:
    """Stop `work` with JobTooLarge when its commands and its share of this process take more than `max_bytes`.

    Half as much is allowed until `work.large` is set.
    """
    global _limited
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(work, max_bytes, ended), daemon=True, name="memory")
    with _lock:
        _limited += 1
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        with _lock:
            _limited -= 1


def _watch(work: Work, max_bytes: int, ended: threading.Event) -> None:
    while not ended.wait(SAMPLE_S):
        allowed_bytes = max_bytes if work.large.is_set() else max_bytes // 2
        commands_bytes = resident_bytes(work.processes.copy())
        worker_bytes = _resident_bytes(os.getpid()) // max(1, _limited)
        if commands_bytes + worker_bytes > allowed_bytes:
            log.warning("attempt.memory_exceeded", commands_bytes=commands_bytes, worker_bytes=worker_bytes)
            work.stop.set(
                JobTooLarge(f"The job needs more memory than the {allowed_bytes / 1e9:.3g} GB allowed to it.")
            )
            return


def _with_descendants(process_ids: Iterable[int]) -> Iterator[int]:
    for process_id in process_ids:
        yield process_id
        with suppress(OSError):
            for children in Path(f"/proc/{process_id}/task").glob("*/children"):
                with suppress(OSError):
                    yield from _with_descendants(map(int, children.read_text().split()))


def _resident_bytes(process_id: int) -> int:
    try:
        return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
