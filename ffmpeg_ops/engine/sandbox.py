"""Restrictions, enforced by the kernel, on processes that handle untrusted files. They need no privilege.

`confine` restricts the calling thread, and every process that it starts from then on, permanently:
- Landlock: access only to the system's programs and libraries, one directory and the given files; none to other
  processes, not even to /proc/<pid>/environ.
- seccomp: no network, no signals or limits for other processes, no modes or times of files (see `system_calls.py`).
- No capabilities, and none to gain.
What the kernel or the system lacks is left out; `gaps` says in plain words what that means.

CUDA needs more access than FFmpeg does. A command for a GPU that does not work inside the sandbox runs in a `reduced`
one: without Landlock, and without the rules of seccomp for files and shared memory. That holds for this command only.

`hide` protects a process's own memory and environment from other processes of its user, even without Landlock.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ffmpeg_ops.engine import landlock, system_calls

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION = 0x20080522

_ON_LINUX = platform.system() == "Linux"
_libc = ctypes.CDLL(None, use_errno=True)


def hide() -> None:
    """Make /proc/<pid>/environ, mem and fd of this process and its forks readable by root only.

    Otherwise the initial environment of a process stays readable there, even if the process deletes variables.
    """
    if _ON_LINUX:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def confine(directory: Path | None, readable: Iterable[Path] = (), *, reduced: bool = False) -> None:
    """Confine this thread and its processes to reading and writing below `directory`, if any, and reading `readable`.

    This cannot be undone, so call it on a dedicated thread or in a process that does nothing else. Raises OSError when
    a restriction that the system supports cannot be applied.
    """
    if not _ON_LINUX:
        return
    program = None if system_calls.unavailable() else system_calls.program(reduced=reduced)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if landlock.version() and not reduced:
        landlock.keep_to(directory, readable)
    drop_capabilities()  # with no_new_privs, not even root gets them back
    if program:
        program.load()


def drop_capabilities() -> None:
    """Take all capabilities from the calling thread: some bypass the sandbox. Raises OSError."""
    if _ON_LINUX:
        _check(_libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)))


@cache
def gaps() -> tuple[str, ...]:
    """What the sandbox does not hold on this system, in plain words; empty where it is whole."""
    if not _ON_LINUX:
        return ("only Linux confines FFmpeg",)
    found = []
    if not landlock.version():
        found.append("this kernel has no Landlock: FFmpeg can read and change files of other jobs")
    if why := system_calls.unavailable():
        found.append(f"{why}: FFmpeg can use the network, signal and limit other processes, and change modes of files")
    return tuple(found)


def warnings() -> tuple[str, ...]:
    """`gaps` as a line for `stats.warnings`; empty where the sandbox is whole."""
    return (f"the worker's sandbox is not whole: {'; '.join(gaps())}",) if gaps() else ()


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
