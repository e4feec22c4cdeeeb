"""Restrictions, enforced by the kernel, on processes that handle untrusted files. Needs no privilege and no library.

`confine` restricts the calling thread, and every process that it starts from then on, permanently:
- Landlock (Linux 5.13, allowed by Docker's default profile): access only to the system's programs and libraries, one
  directory and the given files; none to other processes, not even to /proc/<pid>/environ.
- seccomp (everywhere): no connections and no sockets to make them, so no network; no access to other processes' memory.
A mechanism that the kernel lacks is skipped; `available` lists the others. CUDA needs more access than FFmpeg does and
may not start inside the sandbox. `probe.works` then disables the sandbox and logs it.

`hide` protects a process's own memory and environment from other processes of its user, even without Landlock.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAP_SETPCAP = 8

# Landlock's rights, from linux/landlock.h.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_OF_FIRST_ABI = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store", "/proc", "/sys"),
    *("/etc/fonts", "/etc/ld.so.cache", "/etc/localtime", "/etc/nvidia", "/etc/OpenCL", "/var/cache/fontconfig"),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Since release 570 the driver writes thread names below /proc; it also keeps segments in /dev/shm.
_GPU = "/dev/nvidiactl"
_OF_GPU = ("/dev/nvidia*", "/proc", "/dev/shm")  # noqa: S108

# Per architecture: its number in the kernel, then the system calls seccomp, (socket, socketpair), and those refused:
# connect, io_uring_setup (which can connect as well), ptrace, process_vm_readv, process_vm_writev.
_MACHINES = {
    "x86_64": (0xC000003E, 317, (41, 53), (42, 425, 101, 310, 311)),
    "aarch64": (0xC00000B7, 277, (198, 199), (203, 425, 117, 270, 271)),
}
# CUDA listens on a Unix stream socket. Datagram sockets are refused because they send without a connection.
_UNIX, _STREAM, _SEQPACKET = 1, 1, 5
_X32 = 0x40000000  # a second set of system calls on x86_64
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # the second: no slow speculation mitigation on older kernels
_EACCES, _ALLOW, _REFUSE = 13, 0x7FFF0000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT, _FIRST_AT, _SECOND_AT = 0, 4, 16, 24  # in struct seccomp_data

_ON_LINUX = platform.system() == "Linux"
_disabled = False
_libc = ctypes.CDLL(None, use_errno=True)


def hide() -> None:
    """Make /proc/<pid>/environ, mem and fd of this process and its forks readable by root only.

    Otherwise the initial environment of a process stays readable there, even if the process deletes variables.
    """
    if _ON_LINUX:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def confine(directory: Path | None, readable: Iterable[Path] = ()) -> None:
    """Confine this thread and its processes to reading and writing below `directory`, if any, and reading `readable`.

    This cannot be undone, so call it on a dedicated thread. Raises OSError when a restriction that the kernel supports
    cannot be applied.
    """
    if not _ON_LINUX or _disabled:
        return
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if landlock := _landlock():
        _keep_to(directory, readable, landlock)
    if _has_seccomp():
        _check(_filtered())


def disable(disabled: bool) -> None:
    """Start later processes unconfined, or confined again: for a GPU that does not work inside the sandbox."""
    global _disabled
    _disabled = disabled


def may_block_gpu() -> bool:
    """Whether there is an NVIDIA driver and the sandbox is enabled."""
    return _has_gpu() and not _disabled


def _has_gpu() -> bool:
    return Path(_GPU).exists()


@cache
def available() -> tuple[str, ...]:
    """Which of "landlock" and "seccomp" this kernel has."""
    return tuple(name for name, found in (("landlock", _landlock()), ("seccomp", _has_seccomp())) if found)


@cache
def drops_capabilities() -> bool:
    """Whether this process has capabilities, some of which bypass the sandbox, and may drop them for its children."""
    if not _ON_LINUX:
        return False
    status = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(held >> _CAP_SETPCAP & 1)


@cache
def _landlock() -> int:
    """The kernel's Landlock version, 0 without Landlock."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))) if _ON_LINUX else 0


@cache
def _has_seccomp() -> bool:
    if not _ON_LINUX or platform.machine() not in _MACHINES:
        return False
    _, call, *_ = _MACHINES[platform.machine()]
    # Without a filter it fails with EFAULT where it would accept one.
    return bool(_libc.syscall(call, _SET_MODE_FILTER, 0, None) == -1 and ctypes.get_errno() == 14)


def _keep_to(directory: Path | None, readable: Iterable[Path], landlock: int) -> None:
    every = _OF_FIRST_ABI | (_TRUNCATE if landlock >= 3 else 0)
    size = 24 if landlock >= 6 else 16 if landlock >= 4 else 8
    rules = _check(_libc.syscall(_CREATE_RULESET, struct.pack("=QQQ", every, _TCP, _SCOPES), ctypes.c_size_t(size), 0))
    try:
        if directory is not None:
            _allow(rules, directory, every)
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
    devices = [*_DEVICES, *(_OF_GPU if _has_gpu() else ())]
    for path in (path for pattern in devices for path in Path("/").glob(pattern.removeprefix("/"))):
        yield path, (_READ | _WRITE | _LIST | _TRUNCATE | _MAKE_FILE | _REMOVE_FILE) & every


def _allow(rules: int, path: Path, rights: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= -1 if path.is_dir() else _OF_FILES
        _check(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, target), 0))
    finally:
        os.close(target)


def _filtered() -> int:
    machine, call, sockets, refused = _MACHINES[platform.machine()]
    n = len(refused)
    # Operation, lines to skip if true, lines to skip if false, value. The last line refuses, the one before allows.
    program = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 0, n + 11, machine),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, n + 9, 0, _X32),
        *((_EQUAL, n + 8 - i, 0, number) for i, number in enumerate(refused)),
        (_EQUAL, 1, 0, sockets[0]),
        (_EQUAL, 0, 6, sockets[1]),
        (_LOAD, 0, 0, _FIRST_AT),
        (_EQUAL, 0, 5, _UNIX),
        (_LOAD, 0, 0, _SECOND_AT),
        (_AND, 0, 0, 0xF),
        (_EQUAL, 1, 0, _STREAM),
        (_EQUAL, 0, 1, _SEQPACKET),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE | _EACCES),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    whole = struct.pack("@HP", len(program), ctypes.addressof(code))
    return int(_libc.syscall(call, _SET_MODE_FILTER, _SPEC_ALLOW, whole))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
