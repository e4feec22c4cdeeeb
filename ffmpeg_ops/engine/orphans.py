"""Finds and kills what a command has left behind outside its process group, as a hijacked FFmpeg may.

Such a process becomes a child of this one when its parent ends, once `adopt` was called. It is told from this process's
other children by the sandbox, which it cannot leave: it has more filters of system calls than this process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_LIMIT_S, _PAUSE_S = 2.0, 0.002

_adopted = False
_lock = threading.Lock()  # held while a command starts: until its number is known, it looks like an orphan
_commands: set[int] = set()


def adopt() -> None:
    """Make this process the parent of what its commands leave behind. Processes that it forks do not inherit that."""
    global _adopted
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _adopted = True


@contextmanager
def starting() -> Iterator[Callable[[int], None]]:
    """Start a command in this block, and pass its process id to the function, so that it is no orphan."""
    with _lock:
        yield _commands.add


def ended(pid: int) -> None:
    """Forget a command whose end was waited for."""
    with _lock:
        _commands.discard(pid)


def kill() -> None:
    """Kill the orphans, and their descendants, which become orphans then. Gives up after two seconds."""
    ends_at = time.monotonic() + _LIMIT_S
    while _adopted and (pids := _kill_once()):
        if time.monotonic() > ends_at:
            log.error("process.orphans_left", pids=pids)
            return
        time.sleep(_PAUSE_S)


def _kill_once() -> list[int]:
    """Kill the orphans that are there, wait for those that are dead, and return all of them."""
    with _lock:
        found = [pid for pid in _children() if pid not in _commands and _filters(pid) > _filters(os.getpid())]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return found


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended, or a kernel without these files
            yield from (int(pid) for pid in (task / "children").read_text().split())


def _filters(pid: int) -> int:
    """How many filters of system calls a process has."""
    try:
        found = re.search(r"^Seccomp_filters:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
