"""The process behind `confined`: for each call it forks a child, which confines itself before it reads anything.

It has loaded the libraries that the calls need, so a child starts within milliseconds. It has one thread, because a
fork would copy the locks that other threads hold. It reads nothing that a child writes.

A child has no network, writes no file, and reads only the files of its call and the system's. It is killed when its
caller closes the call's socket, when this process dies, and at its limits. What it has started itself becomes a child
of this process when it ends, and is killed then. This process ends when its worker does, which closes their socket.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ffmpeg_ops.engine import sandbox
from wire.errors import JobError, WorkerError

#: What a confined function returns: facts that JSON can hold, and its data in pieces.
Returned = tuple[Mapping[str, Any], Iterable[bytes]]

PRELOADED = (
    "ffmpeg_ops.engine.stills.reading",
    "ffmpeg_ops.engine.overlays.picture_reading",
    "ffmpeg_ops.engine.subtitles.font_reading",
    "ffmpeg_ops.engine.subtitles.transfer",
)
MAX_REQUEST_BYTES = 32_000
# A reply is a file: the size of the facts, the facts as JSON, and at DATA_AT the data.
SIZE_BYTES, DATA_AT = 4, 64 * 1024
_OPEN_FILES = 256
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve the socket whose number is the only argument, until the worker has closed its end."""
    sandbox.hide()
    sandbox.drop_capabilities()
    sandbox.gaps()  # looked up once, not in every child
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy what it shares with this process
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        _Server(requests).serve()


class _Server:
    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._callers: dict[int, socket.socket] = {}  # by the child's process id
        self._open = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ, self._start)
        ended, wake = socket.socketpair()
        self._wake = wake  # owned here
        for end in (ended, wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(ended, selectors.EVENT_READ, partial(self._reap, ended))

    def serve(self) -> None:
        while self._open:
            for key, _ in self._selector.select():
                key.data()
        for pid in self._callers:
            _kill(pid)
        with suppress(ChildProcessError):
            while True:
                self._ended(*os.waitpid(-1, 0))
                self._kill_orphans()

    def _start(self) -> None:
        """Fork a child for the next request and send its process id. Without one, the caller sees its socket close."""
        request, descriptors, *_ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, 2)
        if not request:
            self._open = False
            return
        caller, reply = socket.socket(fileno=descriptors[0]), descriptors[1]
        parent = os.getpid()
        try:
            if (pid := os.fork()) == 0:
                _run_child(parent, request, reply)
        except OSError:
            caller.close()
        else:
            self._callers[pid] = caller
            self._selector.register(caller, selectors.EVENT_READ, partial(self._give_up, pid))
            _send(caller, pid)
        finally:
            os.close(reply)

    def _give_up(self, pid: int) -> None:
        """The caller has closed its end or stopped writing."""
        if pid in self._callers:
            self._selector.unregister(self._callers[pid])
            _kill(pid)

    def _reap(self, ended: socket.socket) -> None:
        ended.recv(1024)
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended(*found)
        self._kill_orphans()

    def _ended(self, pid: int, status: int) -> None:
        """Send the exit status, negative for a signal."""
        if (caller := self._callers.pop(pid, None)) is not None:
            with suppress(KeyError):  # given up
                self._selector.unregister(caller)
            with suppress(OSError), caller:
                _send(caller, os.waitstatus_to_exitcode(status))

    def _kill_orphans(self) -> None:
        """Kill what children that have ended had started. Each end is reaped, and shows what that one had started."""
        with suppress(OSError):
            found = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            for pid in {int(pid) for pid in found.split()} - self._callers.keys():
                _kill(pid)


def _kill(pid: int) -> None:
    """Kill a child, which is not reaped yet, and its group, which it may not have made yet."""
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _send(caller: socket.socket, number: int) -> None:
    with suppress(OSError):  # it has given up
        caller.send(number.to_bytes(4, "big", signed=True))


def _run_child(parent: int, request: bytes, reply: int) -> NoReturn:
    status = 1
    try:
        reply = _isolate(parent, reply)
        _answer(json.loads(request), reply)
        status = 0
    finally:
        os._exit(status)


def _isolate(parent: int, reply: int) -> int:
    """Leave everything of the parent's behind; return the new number of `reply`."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.dup2(reply, 3)
    os.closerange(4, _OPEN_FILES)
    return 3


def _answer(call: Mapping[str, Any], reply: int) -> None:
    """Run the function of `call`, confined, and write what it returns or raises to `reply`."""
    try:
        function = getattr(importlib.import_module(call["module"]), call["function"])
        _limit(call)
        sandbox.confine(None, [Path(path) for path in call["readable"]])
        facts, data = function(call["arguments"])
        os.lseek(reply, DATA_AT, os.SEEK_SET)
        with os.fdopen(reply, "wb", 0, closefd=False) as file:
            for piece in data:
                file.write(piece)
        said: dict[str, Any] = {"facts": facts}
    except JobError as error:
        said = _failed(error)
    except Exception:
        said = _failed(WorkerError(detail=traceback.format_exc()))
    encoded = json.dumps(said).encode()
    os.pwrite(reply, len(encoded).to_bytes(SIZE_BYTES, "big") + encoded, 0)


def _failed(error: JobError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "detail": error.detail}}


def _limit(call: Mapping[str, Any]) -> None:
    limits = {
        resource.RLIMIT_DATA: call["memory_bytes"],
        resource.RLIMIT_CPU: call["cpu_s"],
        resource.RLIMIT_FSIZE: DATA_AT + call["data_bytes"],
        resource.RLIMIT_CORE: 0,
    }
    for which, wanted in limits.items():
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))
