"""What a process that handles strangers' files cannot do, by the kernel's word. Needs no privilege and no library.

`confine` puts the calling thread, and every process it starts from then on, behind walls for good:
- Landlock (Linux 5.13, in Docker's default profile): of the disk it has the system's programs and libraries, its own
  directory and the files that it is given; of other processes nothing, /proc/<pid>/environ included.
- seccomp (everywhere): no connection and no socket for one, so no network; no look into another process's memory.
What a kernel lacks is left out, and `standing` tells what there is. A GPU needs a little more than FFmpeg: CUDA fails
to begin when one of those things is refused. `encoders.works` takes the walls down where that happens, and says so.

`hide` keeps a process's own memory and environment from others of its user, with no Landlock either.
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

# Landlock's rights by bit, as linux/landlock.h has them.
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
# Since 570 the driver writes names of threads below /proc, and it has segments of its own in /dev/shm.
_GPU = "/dev/nvidiactl"
_OF_GPU = ("/dev/nvidia*", "/proc", "/dev/shm")  # noqa: S108

# Per machine: the kernel's name of it, and the numbers of seccomp(2), of socket and socketpair, of what is refused:
# connect, io_uring_setup (which has other ways to connect), ptrace, process_vm_readv, process_vm_writev.
_MACHINES = {
    "x86_64": (0xC000003E, 317, (41, 53), (42, 425, 101, 310, 311)),
    "aarch64": (0xC00000B7, 277, (198, 199), (203, 425, 117, 270, 271)),
}
# CUDA listens on a socket of this kind under a name of its own. Datagrams could be sent with no connection.
_UNIX, _STREAM, _SEQPACKET = 1, 1, 5
_X32 = 0x40000000  # a second set of numbers on x86_64
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # the second: without older kernels' slow guard of what runs the filtered code
_EACCES, _ALLOW, _REFUSE = 13, 0x7FFF0000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT, _FIRST_AT, _SECOND_AT = 0, 4, 16, 24  # in struct seccomp_data

_ON_LINUX = platform.system() == "Linux"
_down = False
_libc = ctypes.CDLL(None, use_errno=True)


def hide() -> None:
    """Make /proc/<pid>/environ, mem and fd of this process root's alone; what is forked from it inherits that.

    The environment that a process was started with stays readable there otherwise, whatever it deletes from it.
    """
    if _ON_LINUX:
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def confine(directory: Path, readable: Iterable[Path] = ()) -> None:
    """Put this thread, and what it starts, behind walls: it may read and write below `directory`, and read `readable`.

    There is no way back: call it on a thread made for that. Raises OSError when a wall that the kernel has cannot be
    put up.
    """
    if not _ON_LINUX or _down:
        return
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if landlock := _landlock():
        _keep_to(directory, readable, landlock)
    if _has_seccomp():
        _check(_filtered())


def take_down(down: bool) -> None:
    """Go without walls, or have them again: for a GPU that does not work behind them."""
    global _down
    _down = down


def hinder_a_gpu() -> bool:
    """Whether NVIDIA's driver is here and the walls are up."""
    return _has_gpu() and not _down


def _has_gpu() -> bool:
    return Path(_GPU).exists()


@cache
def standing() -> tuple[str, ...]:
    """Which walls this kernel has: of "landlock" and "seccomp"."""
    return tuple(name for name, there in (("landlock", _landlock()), ("seccomp", _has_seccomp())) if there)


@cache
def drops_capabilities() -> bool:
    """Whether this process, root's, has capabilities and may take them from what it starts: they open some walls."""
    if not _ON_LINUX:
        return False
    status = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(held >> _CAP_SETPCAP & 1)


@cache
def _landlock() -> int:
    """Landlock's version here, 0 without one."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))) if _ON_LINUX else 0


@cache
def _has_seccomp() -> bool:
    if not _ON_LINUX or platform.machine() not in _MACHINES:
        return False
    _, call, *_ = _MACHINES[platform.machine()]
    # Without a filter to set it says EFAULT where it would take one.
    return bool(_libc.syscall(call, _SET_MODE_FILTER, 0, None) == -1 and ctypes.get_errno() == 14)


def _keep_to(directory: Path, readable: Iterable[Path], landlock: int) -> None:
    every = _OF_FIRST_ABI | (_TRUNCATE if landlock >= 3 else 0)
    size = 24 if landlock >= 6 else 16 if landlock >= 4 else 8
    rules = _check(_libc.syscall(_CREATE_RULESET, struct.pack("=QQQ", every, _TCP, _SCOPES), ctypes.c_size_t(size), 0))
    try:
        _allow(rules, directory, every)
        for path, rights in _common(every):
            with suppress(OSError):  # not every system has each of them
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
    there = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights &= -1 if path.is_dir() else _OF_FILES
        _check(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, there), 0))
    finally:
        os.close(there)


def _filtered() -> int:
    machine, call, sockets, refused = _MACHINES[platform.machine()]
    n = len(refused)
    # Operation, lines to skip if so, lines to skip if not, value. The last line refuses, the one before allows.
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


def _check(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
