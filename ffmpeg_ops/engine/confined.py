"""Runs Python functions that read untrusted files, each in a confined child that can be killed at any moment.

Libraries that decode files, such as Pillow, cannot be interrupted, and an error in one must not reach other jobs. A
function called through `run` has the same restrictions as FFmpeg (see `sandbox.py`), and is killed within two seconds
of a stop. Its child is forked by a process that has loaded the libraries already, the zygote, of which a worker has
one. A zygote that dies is replaced.

Everything that a child sends is untrusted: numbers, JSON and bytes of limited size, never pickled objects.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import orphans
from ffmpeg_ops.engine.zygote import DATA_AT, MAX_REQUEST_BYTES, SIZE_BYTES, Returned
from ffmpeg_ops.operation import Work
from wire.errors import CODES, MAX_MESSAGE, JobError, JobFault, JobTimeout, WorkerError

_POLL_S = 0.1
_MAX_WARNINGS, _MAX_WARNING = 10, 500
_KILL_S = 2.0
_TRIES = 2
_KILLED, _OUT_OF_CPU = -9, -24  # exit statuses


class Crashed(WorkerError):
    """The function's process crashed, or its reply makes no sense. Files can be made to do that."""


class _ZygoteLost(Exception):
    """The zygote has died, or could not start a child."""


@dataclass(frozen=True)
class Result:
    """What a function returned. Its process is dead, so it cannot change any more; it is not trusted."""

    #: Any JSON object.
    facts: Mapping[str, Any]
    #: At most as many bytes as the caller allows.
    data: bytes

    def warnings(self) -> tuple[str, ...]:
        """The fact `warnings`, a list of texts, of limited number and length. Raises ValueError for anything else."""
        found = self.facts.get("warnings")
        if not isinstance(found, list) or not all(isinstance(warning, str) for warning in found):
            raise ValueError("the warnings are no list of texts")
        return tuple(warning[:_MAX_WARNING] for warning in found[:_MAX_WARNINGS])


def run(
    function: Callable[[Mapping[str, Any]], Returned],
    arguments: Mapping[str, Any],
    work: Work,
    *,
    readable: Iterable[Path],
    timeout_s: float,
    memory_bytes: int,
    data_bytes: int,
) -> Result:
    """Call a function of a module, with JSON arguments, in a process that can read `readable` and nothing else.

    Raises the reason of `work.stop`, JobTimeout after `timeout_s` or as much CPU time on every core, a JobFault that
    the function raises, Crashed, and WorkerError for everything else. The process is dead when this returns or raises.
    """
    call = {
        "module": function.__module__,
        "function": function.__qualname__,
        "arguments": arguments,
        "readable": [str(path.absolute()) for path in readable],
        "cpu_s": math.ceil(timeout_s) * (os.cpu_count() or 1),
        "memory_bytes": memory_bytes,
        "data_bytes": data_bytes,
    }
    request = json.dumps(call).encode()
    if len(request) > MAX_REQUEST_BYTES:
        raise WorkerError(detail=f"a call of {function.__qualname__} has {len(request)} bytes")
    ends_at = time.monotonic() + timeout_s
    for _ in range(_TRIES):
        zygote = _zygotes.get()
        try:
            return _call(zygote, request, work, ends_at, data_bytes)
        except _ZygoteLost:
            _zygotes.discard(zygote)
    raise WorkerError(detail="no process could be started")


def start() -> int:
    """Start the zygote, so that the first call does not wait for it. Returns its process id."""
    return _zygotes.get().pid


def _call(zygote: _Zygote, request: bytes, work: Work, ends_at: float, data_bytes: int) -> Result:
    reply = os.memfd_create("reply")
    try:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with control:
            with theirs:
                zygote.send(request, theirs.fileno(), reply)
            try:
                process_id = _received(control, work, ends_at)
                work.processes.add(process_id)
                try:
                    status = _received(control, work, ends_at)
                finally:
                    work.processes.discard(process_id)
            except JobError:
                _kill(control, zygote)
                raise
        return _result(status, reply, data_bytes)
    finally:
        os.close(reply)


def _received(control: socket.socket, work: Work, ends_at: float) -> int:
    control.settimeout(_POLL_S)
    while True:
        work.stop.check()
        if time.monotonic() > ends_at:
            raise JobTimeout
        with suppress(TimeoutError):
            return _number(control)


def _number(control: socket.socket) -> int:
    try:
        message = control.recv(4)
    except TimeoutError:
        raise
    except OSError as error:
        raise _ZygoteLost from error
    if not message:
        raise _ZygoteLost
    return int.from_bytes(message, "big", signed=True)


def _kill(control: socket.socket, zygote: _Zygote) -> None:
    """Have the child killed and wait for its end. If that takes too long, kill the zygote, and with it its children."""
    control.settimeout(_KILL_S)
    try:
        control.shutdown(socket.SHUT_WR)
        while True:  # the process id may come first, the exit status comes before the end
            _number(control)
    except _ZygoteLost:
        pass
    except OSError:
        _zygotes.discard(zygote)


def _result(status: int, reply: int, data_bytes: int) -> Result:
    if status == _OUT_OF_CPU:
        raise JobTimeout
    if status == _KILLED:
        raise WorkerError(detail="the confined process was killed")
    if status:
        raise Crashed(detail=f"the confined process ended with status {status}")
    size = os.fstat(reply).st_size
    said = _said(reply)
    if "error" in said:
        raise _error(said["error"])
    if not isinstance(said.get("facts"), dict) or size > DATA_AT + data_bytes:
        raise Crashed(detail="the reply has no facts or too much data")
    return Result(said["facts"], os.pread(reply, max(0, size - DATA_AT), DATA_AT))


def _said(reply: int) -> dict[str, Any]:
    size = int.from_bytes(os.pread(reply, SIZE_BYTES, 0), "big")
    try:
        said = json.loads(os.pread(reply, min(size, DATA_AT - SIZE_BYTES), SIZE_BYTES))
    except (ValueError, RecursionError) as error:
        raise Crashed(detail="the reply is not JSON") from error
    if not isinstance(said, dict):
        raise Crashed(detail="the reply is not an object")
    return said


def _error(said: Any) -> JobError:
    """The error that the child reported. Only faults of the job and bugs are believed."""
    said = said if isinstance(said, dict) else {}
    code, message, detail = (said.get(name) for name in ("code", "message", "detail"))
    detail = detail if isinstance(detail, str) else None
    known = CODES.get(code) if isinstance(code, str) else None
    if known is not None and issubclass(known, JobFault) and isinstance(message, str):
        return known(message[:MAX_MESSAGE], detail=detail)
    return WorkerError(detail=detail)


class _Zygote:
    """The process that forks the children."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(_KILL_S)
        with theirs:
            program = "from ffmpeg_ops.engine import zygote; zygote.main()"
            command = [sys.executable, "-P", "-c", program, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=_environment(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: bytes, *descriptors: int) -> None:
        """Send a call. Raises _ZygoteLost."""
        try:
            socket.send_fds(self._requests, [request], descriptors)
        except OSError as error:
            raise _ZygoteLost from error

    def kill(self) -> None:
        """Kill it and what it leaves to this process: its children, which the kernel kills, and what they started."""
        self._process.kill()
        self._process.wait()
        orphans.kill()
        self.forget()

    def forget(self) -> None:
        """Close the socket. Once every process has, it ends."""
        self._requests.close()


def _environment() -> dict[str, str]:
    """Nothing of the worker's but where its code is. Libraries that start threads at import are told not to."""
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Pages of 2 MB where the kernel has them: each child begins without memory, and pays for each of its pages.
    memory = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "PYTHONPATH": paths, **threads, **memory}


class _Zygotes:
    """The zygote of this process, and its successors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: _Zygote | None = None

    def get(self) -> _Zygote:
        """A zygote that was alive a moment ago."""
        with self._lock:
            if self._current is not None and not self._current.alive:
                self._current.kill()
                self._current = None
            if self._current is None:
                self._current = _Zygote()
            return self._current

    def discard(self, zygote: _Zygote | None = None) -> None:
        """Kill `zygote`, or the current one."""
        with self._lock:
            if self._current is not None and zygote in {None, self._current}:
                self._current.kill()
                self._current = None

    def forget(self) -> None:
        """In a forked process, leave the zygote to the parent."""
        self._lock = threading.Lock()
        if self._current is not None:
            self._current.forget()
            self._current = None


_zygotes = _Zygotes()
atexit.register(_zygotes.discard)
os.register_at_fork(after_in_child=_zygotes.forget)
