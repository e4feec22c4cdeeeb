"""Landlock: a process can access only the files that it needs. Linux 5.13; Docker's default profile allows it."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from ffmpeg_ops.engine import gpu

# Rights, from linux/landlock.h.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_OF_FIRST_ABI = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE
# Devices, sockets, pipes and symbolic links, through which the worker could be led elsewhere or kept waiting.
_MAKE_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store", "/proc", "/sys"),
    *("/etc/fonts", "/etc/ld.so.cache", "/etc/localtime", "/etc/nvidia", "/etc/OpenCL", "/var/cache/fontconfig"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Since release 570 the driver writes thread names below /proc; it also keeps segments in /dev/shm.
_OF_GPU = ("/dev/nvidia*", "/proc", "/dev/shm")  # noqa: S108

_libc = ctypes.CDLL(None, use_errno=True)


@cache
def version() -> int:
    """The kernel's Landlock version, 0 without Landlock."""
    if platform.system() != "Linux":
        return 0
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def keep_to(directory: Path | None, readable: Iterable[Path]) -> None:
    """Confine the calling thread to the system's files, `directory`, if any, and reading `readable`. Raises OSError.

    It must have set no_new_privs, and the kernel must have Landlock.
    """
    every = _OF_FIRST_ABI | (_TRUNCATE if version() >= 3 else 0)
    size = 24 if version() >= 6 else 16 if version() >= 4 else 8
    rules = _check(_libc.syscall(_CREATE_RULESET, struct.pack("=QQQ", every, _TCP, _SCOPES), ctypes.c_size_t(size), 0))
    try:
        if directory is not None:
            _allow(rules, directory, every & ~_MAKE_SPECIAL)
        for path, rights in _common(every):
            with suppress(OSError):  # not every system has all of them
                _allow(rules, path, rights)
        for path in readable:
            _allow(rules, path, _READ | _LIST | _EXECUTE)
        _check(_libc.syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _common(every: int) -> Iterator[tuple[Path, int]]:
    for name in _SYSTEM:
        yield Path(name), _READ | _LIST | _EXECUTE
    devices = [*_DEVICES, *(_OF_GPU if gpu.present() else ())]
    for path in (path for pattern in devices for path in Path("/").glob(pattern.removeprefix("/"))):
        yield path, (_READ | _WRITE | _LIST | _TRUNCATE | _MAKE_FILE | _REMOVE_FILE) & every


def _allow(rules: int, path: Path, rights: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= -1 if path.is_dir() else _OF_FILES
        _check(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, target), 0))
    finally:
        os.close(target)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
