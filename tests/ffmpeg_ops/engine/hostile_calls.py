"""A program that tries what a hijacked FFmpeg could try against other processes and the kernel: one call after another.

Its argument is a JSON object: `victim` and `worker`, processes of its user, and `file`, a file of its user. It prints a
JSON object: for each call "done", or the name of its error. It imports nothing of ours, so that any Python runs it.

No call does harm where it is not refused: what could is given something that does not exist, so that another error than
a refusal is a success too.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import stat
import sys
from pathlib import Path

given = json.loads(sys.argv[1])
victim, worker, file = given["victim"], given["worker"], given["file"]
folder = str(Path(file).parent)
libc = ctypes.CDLL(None, use_errno=True)
NO_KEY = 0x7EE1A4
NOBODY = 2_000_000_000  # no user has it
libc.shmat.restype = ctypes.c_long
of_x86 = platform.machine() == "x86_64"
NUMBERS = {  # x86_64, aarch64
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "memfd_secret": (447, 447),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "fsopen": (430, 430),
    "fchmodat2": (452, 452),
    "clone": (56, 220),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "setxattrat": (463, 463),
    "prlimit64": (302, 261),
}
SIGNAL_INFO = ctypes.create_string_buffer(128)
ctypes.c_int.from_buffer(SIGNAL_INFO, 8).value = -1  # si_code SI_QUEUE


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def call(name, *arguments):
    """A raw system call; integers have 64 bits."""
    whole = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(libc.syscall(ctypes.c_long(NUMBERS[name][not of_x86]), *whole))


def forked(flags):
    """With CLONE_PARENT, the worker would get a child that it does not know."""
    if call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def signal_by_descriptor(command, value):
    reading, _ = os.pipe()
    fcntl.fcntl(reading, command, value)


def threads_of_the_worker(kill):
    """The thread that started this process has its restrictions, so Landlock lets signals pass. One success is enough."""
    error = OSError(errno.ESRCH, "")
    for task in Path(f"/proc/{worker}/task").iterdir():
        try:
            return kill(int(task.name))
        except OSError as refused:
            error = refused
    raise error


def on_i386():
    """getpid of i386, by `int 0x80`."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    if (got := function()) < 0:
        raise OSError(-got, "")


def written_beside(path):
    """Open with 3, neither reading nor writing, which truncates all the same."""
    os.close(os.open(path, os.O_TRUNC | 3))


def watched(path):
    number = checked(libc.inotify_init1(0))
    checked(libc.inotify_add_watch(number, path.encode(), 2))


size = ctypes.c_size_t
AGAINST_PROCESSES = {
    "kill": lambda: os.kill(victim, 0),
    "kill everything": lambda: os.kill(-1, 0),
    "kill the group of the worker": lambda: os.killpg(os.getpgid(worker), 0),
    "kill a thread of the worker": lambda: threads_of_the_worker(lambda tid: os.kill(tid, 0)),
    "tgkill a thread of the worker": lambda: threads_of_the_worker(lambda tid: checked(libc.tgkill(worker, tid, 0))),
    "tkill": lambda: call("tkill", victim, 0),
    "tgkill": lambda: checked(libc.tgkill(victim, victim, 0)),
    "rt_sigqueueinfo": lambda: call("rt_sigqueueinfo", victim, 0, SIGNAL_INFO),
    "rt_tgsigqueueinfo": lambda: call("rt_tgsigqueueinfo", victim, victim, 0, SIGNAL_INFO),
    "pidfd_open": lambda: os.pidfd_open(victim),
    "pidfd_send_signal": lambda: signal.pidfd_send_signal(os.open(f"/proc/{victim}", os.O_RDONLY), 0),
    "F_SETOWN": lambda: signal_by_descriptor(8, victim),
    "F_SETOWN, 64 bits": lambda: checked(libc.fcntl(0, ctypes.c_long(1 << 32 | 8), ctypes.c_long(victim))),
    "F_SETSIG": lambda: signal_by_descriptor(10, signal.SIGKILL),
    "FIOSETOWN": lambda: checked(libc.ioctl(0, ctypes.c_long(1 << 32 | 0x8901), ctypes.byref(ctypes.c_int(victim)))),
    "prlimit": lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (1000, 1000)),
    "prlimit, read": lambda: resource.prlimit(worker, resource.RLIMIT_CPU),
    "prlimit64, 64 bits": lambda: call("prlimit64", 1 << 32 | victim, 0, 0, 0),
    "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
    "setpriority of a user": lambda: os.setpriority(os.PRIO_USER, NOBODY, 19),
    "setpriority of the group": lambda: os.setpriority(os.PRIO_PGRP, os.getpgid(victim), 19),
    "sched_setaffinity": lambda: os.sched_setaffinity(victim, {0}),
    "sched_setscheduler": lambda: os.sched_setscheduler(victim, os.SCHED_BATCH, os.sched_param(0)),
    "sched_setparam": lambda: os.sched_setparam(victim, os.sched_param(0)),
    "sched_setattr": lambda: call("sched_setattr", victim, (48).to_bytes(4, "little") + bytes(44), 0),
    "ioprio_set": lambda: call("ioprio_set", 1, victim, 3 << 13),
    "ioprio_set of a user": lambda: call("ioprio_set", 3, NOBODY, 2 << 13),
    "process_vm_readv": lambda: checked(libc.process_vm_readv(victim, None, size(0), None, size(0), size(0))),
    "process_vm_writev": lambda: checked(libc.process_vm_writev(victim, None, size(0), None, size(0), size(0))),
    "ptrace": lambda: checked(libc.ptrace(0x4206, victim, None, None)),
    "migrate_pages": lambda: call("migrate_pages", victim, 0, 0, 0),
    "move_pages": lambda: call("move_pages", victim, 0, 0, 0, 0, 0),
    "kcmp": lambda: call("kcmp", victim, victim, 0, 0, 0),
    "process_madvise": lambda: call("process_madvise", -1, 0, 0, 0, 0),
    "pidfd_getfd": lambda: call("pidfd_getfd", -1, 0, 0),
    "clone with CLONE_PARENT": lambda: forked(0x8000),
    "clone3": lambda: call("clone3", 0, 0),
}
LINKS = {
    "symlink": lambda: Path("symbolic").symlink_to(file),
    "symlinkat": lambda: os.symlink(file, "symbolic-2", dir_fd=os.open(".", os.O_RDONLY)),
    "link": lambda: os.link(file, "hard"),
    "link of its own": lambda: (Path("own").write_bytes(b"x"), os.link("own", "own-2")),
    "mkfifo": lambda: os.mkfifo("pipe"),
    "mknod of a socket": lambda: os.mknod("socket", stat.S_IFSOCK | 0o600),
}
AGAINST_FILES = {
    "chmod": lambda: Path(file).chmod(0o600),
    "chmod of its directory": lambda: Path(folder).chmod(0o755),
    "fchmodat2": lambda: call("fchmodat2", -100, file.encode(), 0o600, 0),
    "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
    "lchown": lambda: os.lchown(file, os.getuid(), os.getgid()),
    "utime": lambda: os.utime(file, (1, 1)),
    "truncate": lambda: os.truncate(file, 3),
    "open with O_RDONLY and O_TRUNC": lambda: os.close(os.open(file, os.O_RDONLY | os.O_TRUNC)),
    "open with 3 and O_TRUNC": lambda: written_beside(file),
    "setxattr": lambda: os.setxattr(file, "user.x", b"x"),
    "removexattr": lambda: os.removexattr(file, "user.x"),
    "setxattrat": lambda: call("setxattrat", -100, file.encode(), 0, b"user.x\0", bytes(16), 16),
    "openat2": lambda: call("openat2", -100, file.encode(), bytes(24), 24),
    "inotify": lambda: watched(folder),
}
SHARED = {
    "shmget": lambda: checked(libc.shmget(NO_KEY, size(4096), 0)),
    "shmat": lambda: checked(libc.shmat(given["shared"], None, 0)),
    "shmctl": lambda: checked(libc.shmctl(given["shared"], 2, ctypes.create_string_buffer(512))),
    "semget": lambda: checked(libc.semget(NO_KEY, 1, 0)),
    "msgget": lambda: checked(libc.msgget(NO_KEY, 0)),
    "mq_open": lambda: checked(libc.mq_open(b"/nowhere", os.O_RDWR)),
    "mq_unlink": lambda: checked(libc.mq_unlink(b"/nowhere")),
}
AGAINST_THE_KERNEL = {
    "io_uring_setup": lambda: call("io_uring_setup", 1, bytes(120)),
    "bpf": lambda: call("bpf", 0, bytes(48), 48),
    "userfaultfd": lambda: call("userfaultfd", 1),
    "perf_event_open": lambda: call("perf_event_open", bytes(112), 0, -1, -1, 0),
    "keyctl": lambda: call("keyctl", 0, -3, 1),
    "add_key": lambda: call("add_key", b"user\0", b"x\0", b"x", 1, -3),
    "memfd_secret": lambda: call("memfd_secret", 0),
    "mount": lambda: checked(libc.mount(b"none", b"/nowhere", b"tmpfs", 0, None)),
    "fsopen": lambda: call("fsopen", b"tmpfs\0", 0),
    "chroot": lambda: os.chroot("/nowhere"),
    "unshare": lambda: checked(libc.unshare(0x10000000)),
    "setns": lambda: checked(libc.setns(os.open("/proc/self/ns/net", os.O_RDONLY), 0)),
    "clone with a user namespace": lambda: forked(0x10000000),
    "personality": lambda: checked(libc.personality(0x0040000)),
}
OTHER_ARCHITECTURES = {"i386": on_i386, "x32": lambda: checked(libc.syscall(ctypes.c_long(0x40000000 | 39)))}

kinds = {
    "processes": AGAINST_PROCESSES,
    "links": LINKS,
    "files": AGAINST_FILES,
    "shared": SHARED,
    "kernel": AGAINST_THE_KERNEL,
    "architectures": OTHER_ARCHITECTURES if of_x86 else {},
}
got = {}
for kind in given["kinds"]:
    for name, act in kinds[kind].items():
        try:
            act()
        except OSError as error:
            got[name] = errno.errorcode.get(error.errno, str(error.errno))
        else:
            got[name] = "done"
print(json.dumps(got), flush=True)
os._exit(0)
