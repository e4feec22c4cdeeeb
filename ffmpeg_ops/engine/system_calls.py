"""The system calls that a confined process may not make, as a program for seccomp, made by libseccomp.

A refused call fails with EPERM. Calls that programs replace by another one when the kernel lacks them fail with ENOSYS,
and so do all that are newer than this list. The calls of other architectures (i386 and x32 on x86_64) are refused.

What is refused and why:
- **Network**: connections, and sockets of any kind but connected Unix ones, on which CUDA listens.
- **Other processes**: their memory, limits, priority and processors, and every signal, except to the own process group.
  A signal by number cannot be allowed to the sender itself: the filter is loaded before the process has a number.
  `abort` still ends a program, by another signal.
- **Links, pipes and devices**: the worker reads what a command leaves in its directory, and must not be led elsewhere.
- **Files**, beyond what Landlock controls: modes, owners, times, attributes, truncation by path, and watching them.
- **Shared memory, semaphores and message queues** that have names outside the file system.
- **The kernel**: calls that no program here needs and that have been used to attack it, such as io_uring and bpf.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

_NETWORK = ("connect",)
_PROCESSES = (
    *("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_getfd", "kcmp"),
    *("migrate_pages", "move_pages"),
)
_KERNEL = (
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "userfaultfd"),
    *("keyctl", "add_key", "request_key", "mount", "umount2", "pivot_root", "chroot", "unshare", "setns"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree", "mount_setattr", "open_by_handle_at"),
    *("personality", "modify_ldt", "uselib", "syslog", "acct", "quotactl", "quotactl_fd", "swapon", "swapoff"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "vhangup"),
    *("iopl", "ioperm", "memfd_secret", "fanotify_init", "fanotify_mark", "lsm_set_self_attr"),
)
_LINKS = ("symlink", "symlinkat", "link", "linkat", "mknod", "mknodat")
_FILES = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "truncate"),
    *("utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr"),
    *("removexattr", "lremovexattr", "fremovexattr", "inotify_add_watch"),
)
_SHARED = (
    *("shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl"),
    *("mq_open", "mq_unlink"),
)
# The C library falls back to other calls, whose arguments a filter can read.
_WITH_FALLBACK = ("clone3", "openat2")
# Newer than libseccomp 2.5.4 (Debian 12); the same number on every architecture.
_NUMBERS = {"fchmodat2": 452, "lsm_set_self_attr": 460}
# Newer than this list, which ends with mseal of Linux 6.10, and old numbers of x32.
_NEWER = range(463, 1024)

_UNIX = 1
_TYPE_MASK, _CONNECTED = 0xF, (1, 5)  # stream and seqpacket; datagrams are sent without a connection
_CLONE_FLAGS = (
    *(0x2000, 0x8000),  # PTRACE, PARENT: the new process would be a child of the worker
    *(0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000),  # NEW*: namespaces
)
_TRUNC, _READ_ONLY, _NEITHER = 0o1000, 0, 3  # of open; Landlock's first versions do not see that these truncate
_FCNTL = (8, 10, 15, 1024, 1026)  # SETOWN, SETSIG, SETOWN_EX: signals to others; SETLEASE, NOTIFY: hold and watch files
_IOCTL = (
    *(0x8901, 0x8902, 0x5412, 0x541C),  # FIOSETOWN, SIOCSPGRP: signals; TIOCSTI, TIOCLINUX: typing into a terminal
    *(0x40086602, 0x40046602, 0x401C5820),  # FS_IOC_SETFLAGS (64 and 32 bits), FS_IOC_FSSETXATTR: attributes of files
)
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1
_INT = 0xFFFFFFFF  # the kernel ignores the upper half of such an argument

_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # the second: no slow speculation mitigation on older kernels
_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """Calls cannot be refused on this system. The message says why, in plain words."""


@dataclass(frozen=True)
class Program:
    """A filter of system calls, as the kernel takes it."""

    #: The number of the system call that loads it.
    loader: int
    #: Instructions of eight bytes.
    code: ctypes.Array[ctypes.c_char]

    def load(self) -> None:
        """Apply it to the calling thread and what it starts, permanently. Raises OSError.

        The thread must have set no_new_privs.
        """
        given = struct.pack("@HP", len(self.code) // 8, ctypes.addressof(self.code))
        if _libc.syscall(self.loader, _SET_MODE_FILTER, _SPEC_ALLOW, given):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def unavailable() -> str | None:
    """Why calls cannot be refused on this system, in plain words; None if they can."""
    try:
        program(reduced=False)
    except Unavailable as error:
        return str(error)
    return None


@cache
def program(*, reduced: bool) -> Program:
    """The program that refuses these calls; `reduced` leaves out files and what is shared. Raises Unavailable.

    It is made once, from files that a confined thread cannot read.
    """
    try:
        import pyseccomp  # not at the top: it fails where libseccomp is missing
    except (ImportError, RuntimeError) as error:
        raise Unavailable("libseccomp is not installed") from error
    loader = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "seccomp")
    # Without a filter it fails with EFAULT where it would accept one.
    if _libc.syscall(loader, _SET_MODE_FILTER, 0, None) != -1 or ctypes.get_errno() != errno.EFAULT:
        raise Unavailable("this kernel has no seccomp")
    made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    made.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.EPERM))
    for name, *conditions in _refused(pyseccomp, reduced):
        number = _NUMBERS.get(name, name)
        if number == name and pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) == -1:
            raise Unavailable(f"this libseccomp does not know {name}")
        made.add_rule(pyseccomp.ERRNO(errno.EPERM), number, *conditions)
    for newer in (*_WITH_FALLBACK, *_NEWER):
        made.add_rule(pyseccomp.ERRNO(errno.ENOSYS), newer)
    made.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree: some hundred numbers
    with os.fdopen(os.memfd_create("seccomp"), "rb") as file:
        made.export_bpf(file)
        file.seek(0)
        code = file.read()
    return Program(loader, ctypes.create_string_buffer(code, len(code)))


def _refused(seccomp: Any, reduced: bool) -> Iterator[tuple[Any, ...]]:
    """Names of calls, each with the conditions that must all be true; of several rules for a call one is enough."""

    def is_not(place: int, value: int) -> Any:
        return seccomp.Arg(place, seccomp.NE, value)

    def has(place: int, mask: int, value: int) -> Any:
        return seccomp.Arg(place, seccomp.MASKED_EQ, mask, value)

    always = (*_NETWORK, *_PROCESSES, *_KERNEL, *_LINKS)
    for name in always if reduced else (*always, *_FILES, *_SHARED):
        yield (name,) if name != "kill" else (name, is_not(0, 0))  # 0: the own process group
    for name in ("socket", "socketpair"):
        yield name, is_not(0, _UNIX)
        for kind in set(range(_TYPE_MASK + 1)) - set(_CONNECTED):
            yield name, has(1, _TYPE_MASK, kind)
    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        yield name, is_not(0, 0)
    for name, process in (("setpriority", _PRIO_PROCESS), ("ioprio_set", _IOPRIO_WHO_PROCESS)):
        yield name, is_not(0, process)
        yield name, is_not(1, 0)
    for flag in _CLONE_FLAGS:
        yield "clone", has(0, flag, flag)
    for number in _FCNTL:
        yield "fcntl", has(1, _INT, number)
    for number in _IOCTL:
        yield "ioctl", has(1, _INT, number)
    for name, place in (("open", 1), ("openat", 2)):
        for access in (_READ_ONLY, _NEITHER):
            yield name, has(place, _TRUNC | 3, _TRUNC | access)
