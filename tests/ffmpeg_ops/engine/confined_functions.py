"""Functions that tests run in confined children: some return, others do what a hijacked decoder could try."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine.zygote import Returned
from wire.errors import CODES, JobError

REPLY = 3  # the only descriptor that a child has left


def echo(arguments: Mapping[str, Any]) -> Returned:
    return arguments, (b"some ", b"data")


def fail(arguments: Mapping[str, Any]) -> Returned:
    error = CODES[arguments["code"]]
    assert issubclass(error, JobError)
    raise error("what went wrong", detail="why")


def break_down(arguments: Mapping[str, Any]) -> Returned:
    raise RuntimeError("a bug")


def wait(arguments: Mapping[str, Any]) -> Returned:
    time.sleep(600)
    return {}, ()


def work_forever(arguments: Mapping[str, Any]) -> Returned:
    """Ignores every signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def die(arguments: Mapping[str, Any]) -> Returned:
    os.kill(0, arguments["signal"])  # its group: the sandbox allows no other signal
    return {}, ()


def leave(arguments: Mapping[str, Any]) -> Returned:
    os._exit(arguments["status"])


def hold(arguments: Mapping[str, Any]) -> Returned:
    held = bytearray(b"1") * arguments["bytes"]
    time.sleep(600)
    return {"size": len(held)}, ()


def allocate(arguments: Mapping[str, Any]) -> Returned:
    return {"size": len(bytearray(arguments["bytes"]))}, ()


def return_data(arguments: Mapping[str, Any]) -> Returned:
    return {}, (bytes(1000) for _ in range(arguments["kilobytes"]))


def write_reply(arguments: Mapping[str, Any]) -> Returned:
    """Write any bytes as the reply."""
    os.write(REPLY, bytes.fromhex(arguments["hex"]))
    os._exit(0)


def enlarge_reply(arguments: Mapping[str, Any]) -> Returned:
    os.ftruncate(REPLY, arguments["bytes"])
    return {}, ()


def have_children(arguments: Mapping[str, Any]) -> Returned:
    """Start processes in sessions of their own, which start others, and wait or return."""
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            os.fork()
            time.sleep(600)
    if arguments["returns"]:
        return {}, ()
    time.sleep(600)
    return {}, ()


def limits(arguments: Mapping[str, Any]) -> Returned:
    names = ("RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_CORE")
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}, ()


def look_around(arguments: Mapping[str, Any]) -> Returned:
    """What the child has of others, and what it gets by trying."""
    status = Path("/proc/self/status").read_text()
    got = {
        "descriptors": sorted(number for number in range(1024) if _is_open(number)),
        "environment": dict(os.environ),
        "capabilities": next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")),
        "group": os.getpgid(0) == os.getpid(),
    }
    for name, act in _attacks(arguments):
        try:
            got[name] = repr(act())
        except OSError:
            got[name] = "refused"
    return got, ()


def _is_open(number: int) -> bool:
    with suppress(OSError):
        os.fstat(number)
        return True
    return False


def _attacks(arguments: Mapping[str, Any]) -> list[tuple[str, Callable[[], object]]]:
    def connect() -> object:
        return socket.create_connection(("127.0.0.1", arguments["port"]), 2)

    def trace() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(16, os.getppid(), None, None) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        return 0

    return [
        ("own input", lambda: Path(arguments["input"]).read_text()),
        ("other file", lambda: Path(arguments["other"]).read_text()),
        ("write", lambda: Path(arguments["input"]).with_name("written").write_text("x")),
        ("overwrite", lambda: Path(arguments["input"]).write_text("x")),
        ("environment of the zygote", lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
        ("connect", connect),
        ("trace the zygote", trace),
        ("signal to the zygote", lambda: os.kill(os.getppid(), 0)),
        ("signal to the worker", lambda: os.kill(arguments["worker"], 0)),
    ]


def as_json(arguments: Mapping[str, Any]) -> Returned:
    """Write `text` where the facts belong, with its true size."""
    encoded = arguments["text"].encode()
    os.write(REPLY, len(encoded).to_bytes(4, "big") + encoded)
    os._exit(0)


def loaded(arguments: Mapping[str, Any]) -> Returned:
    """Threads of the parent, which forks without them."""
    status = Path(f"/proc/{os.getppid()}/status").read_text()
    return json.loads(json.dumps(dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line))), ()
