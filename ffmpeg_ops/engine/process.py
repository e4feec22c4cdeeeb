"""The only module that starts programs for a job: argv lists, confined, bounded in time and output, killed as a group.

A command runs in a process group of its own and in the attempt's private directory. The whole group, and what has left
it, is killed when the work is stopped and when the command's time is over; the kernel kills the command when this
process dies. The command has no network, and can access only the system's files, its directory and the inputs it names
(see `sandbox.py`). Its standard error goes to the log and never to a client.
"""

from __future__ import annotations

import fcntl
import math
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import structlog

from ffmpeg_ops.engine import orphans, pipes, sandbox
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed, JobTimeout, WorkerError

log = structlog.get_logger(__name__)

SHORT_TIMEOUT_S = 30
_SHORT_OUTPUT_BYTES = 8_000_000
_SHORT_FILE_BYTES = 16_000_000  # the largest file of a short command is a font cache
_OPEN_FILES = 1024
_TAIL_LINES = 40
_PIPE_BYTES = 1 << 20
_KILL_S = 5.0
_FEED_S = 1.0  # how long a feed may take to end commands of its own

_preloaded: Path | None = None


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    #: Exit status; a negative one is the signal that killed the command.
    status: int
    #: The last lines of standard error.
    tail: str
    #: The exception that `feed` raised, if any; to the command it was the end of its input.
    feed_error: Exception | None = None


def run(
    command: Sequence[str],
    work: Work,
    *,
    timeout_s: float,
    file_bytes: int,
    on_output: Callable[[str], object],
    on_error: Callable[[str], object] = lambda line: None,
    feed: Iterable[bytes] | None = None,
    on_fed: Callable[[], object] = lambda: None,
    check: Callable[[], object] = lambda: None,
    reduced: str | None = None,
) -> Ended:
    """Run `command`; `on_output` and `on_error` get its lines, each on a thread of its own, and `feed` is its input.

    `feed` is iterated on another thread, which calls `on_fed` for every piece, and closed where it is a generator. No
    file that the command writes grows past `file_bytes`. `check` is called many times a second, and ends the command
    with what it raises. `reduced` is the reason to run this command in the reduced sandbox.

    Raises the reason of `work.stop`, JobTimeout after `timeout_s` or as much CPU time on every core, and WorkerError
    when the command is not installed.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    feed_errors: list[Exception] = []

    def on_error_line(line: str) -> None:
        tail.append(line)
        on_error(line)

    limited = _limited(list(command), file_bytes=file_bytes, cpu_s=math.ceil(timeout_s) * (os.cpu_count() or 1))
    if reduced:
        log.warning("sandbox.reduced", command=command[0], reason=reduced)
    stdin = subprocess.DEVNULL if feed is None else subprocess.PIPE
    with _started(limited, work, stdin, reduced=bool(reduced)) as process:
        threads = [pipes.read_lines(process.stdout, on_output), pipes.read_lines(process.stderr, on_error_line)]
        if feed is not None:
            threads.append(pipes.write(process.stdin, feed, on_fed, feed_errors))
        try:
            status = _wait(process, work, timeout_s, check)
        except BaseException:
            _kill(process)
            if feed is not None:
                threads[-1].join(_FEED_S)
            raise
        _kill(process)  # what it has left behind may hold its pipes open
        for thread in threads:
            thread.join()
    return Ended(status, "\n".join(tail), next(iter(feed_errors), None))


def each_line_of(
    command: Sequence[str],
    work: Work,
    consume: Callable[[str], object],
    *,
    timeout_s: float = SHORT_TIMEOUT_S,
    reduced: str | None = None,
) -> bool:
    """Pass every line of a short command's standard output to `consume`, and return whether it printed errors.

    Raises like `run`, WorkerError when the command was killed, and EncodeFailed for any other failure.
    """
    ended = run(command, work, timeout_s=timeout_s, file_bytes=_SHORT_FILE_BYTES, on_output=consume, reduced=reduced)
    _raise_failure(command[0], ended)
    return bool(ended.tail)


@contextmanager
def read(
    command: Sequence[str],
    work: Work,
    *,
    block_bytes: int,
    timeout_s: float,
    on_error: Callable[[str], object] = lambda line: None,
) -> Iterator[Iterator[bytes]]:
    """Run `command` for the length of the context, which is its standard output in blocks of `block_bytes`.

    Only the last block may be shorter. The command waits while no block is taken, and is killed where the context is
    left before its end. `on_error` gets the lines of standard error on a thread of its own, the last one before the
    blocks end or the context does. The blocks raise like `each_line_of`, JobTimeout `timeout_s` after the start.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def on_error_line(line: str) -> None:
        tail.append(line)
        on_error(line)

    ends_at = time.monotonic() + timeout_s
    cpu_s = math.ceil(timeout_s) * (os.cpu_count() or 1)
    limited = _limited(list(command), file_bytes=_SHORT_FILE_BYTES, cpu_s=cpu_s)
    with _started(limited, work, subprocess.DEVNULL, reduced=False) as process:
        assert process.stdout is not None
        with suppress(OSError):  # the system may allow less
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        errors = pipes.read_lines(process.stderr, on_error_line)

        def blocks() -> Iterator[bytes]:
            yield from pipes.blocks(process.stdout, block_bytes, work, ends_at)
            status = _wait(process, work, max(0.0, ends_at - time.monotonic()), lambda: None)
            _kill(process)  # what it has left behind may hold its pipes open
            errors.join()
            _raise_failure(command[0], Ended(status, "\n".join(tail)))

        try:
            yield blocks()
        finally:
            _kill(process)
            errors.join(_KILL_S)


def output_of(
    command: Sequence[str], work: Work, *, timeout_s: float = SHORT_TIMEOUT_S, reduced: str | None = None
) -> bytes:
    """Return the standard output of a short command. Raises like `each_line_of`, and EncodeFailed past the limit."""
    lines: list[str] = []
    size = 0

    def keep(line: str) -> None:
        nonlocal size
        size += len(line) + 1
        if size <= _SHORT_OUTPUT_BYTES:
            lines.append(line)

    each_line_of(command, work, keep, timeout_s=timeout_s, reduced=reduced)
    if size > _SHORT_OUTPUT_BYTES:
        raise EncodeFailed(detail=f"{command[0]} printed {size} bytes")
    return "\n".join(lines).encode()


def output_outside_job(
    command: Sequence[str], *, timeout_s: float = SHORT_TIMEOUT_S, reduced: str | None = None
) -> str:
    """Like `output_of`, in a temporary directory, for commands that belong to no job."""
    with tempfile.TemporaryDirectory() as directory:
        return output_of(command, Work(Path(directory)), timeout_s=timeout_s, reduced=reduced).decode()


def _raise_failure(name: str, ended: Ended) -> None:
    """Raise what a short command's end means, where it did not succeed."""
    if ended.status == -signal.SIGXCPU:
        raise JobTimeout
    if ended.status < 0:
        raise WorkerError(detail=f"{name} was killed by signal {-ended.status}")
    if ended.status:
        raise EncodeFailed(detail=ended.tail)


def preload(library: Path | None) -> None:
    """Make FFmpeg processes that are started later, and no others, load this shared library before their own."""
    global _preloaded
    _preloaded = library


@cache
def find(name: str) -> str | None:
    """The path of an installed program."""
    return shutil.which(name)


def require(name: str) -> None:
    """Raise WorkerError when a program is not installed."""
    if find(name) is None:
        raise WorkerError(f"{name} is not installed on the worker.")


def _limited(command: list[str], *, file_bytes: int, cpu_s: int) -> list[str]:
    """`command` under util-linux's setpriv (dies with its parent) and prlimit, where the system has them."""
    require(command[0])
    if find("prlimit"):
        limits = [f"--fsize={file_bytes}", f"--cpu={cpu_s}", f"--nofile={_OPEN_FILES}", "--core=0"]
        command = ["prlimit", *limits, "--", *command]
    if find("setpriv"):
        command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    return command


@contextmanager
def _started(command: list[str], work: Work, stdin: int, *, reduced: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command, and kill the whole group at the end of the block.

    A process that waits in the kernel, as for a GPU that has died, cannot be killed. It is left with its pipes.
    """
    process, parent = _spawn(command, work.directory, stdin, reduced=reduced)
    work.processes.add(process.pid)
    try:
        yield process
    finally:
        work.processes.discard(process.pid)
        _kill(process)
        parent.join(_KILL_S)
        orphans.kill()
        if parent.is_alive():
            log.error("process.kill_failed", command=command[0], pid=process.pid)
        else:
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipes.close(pipe)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the command's group, and what has left it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    orphans.kill()


def _spawn(
    command: list[str], directory: Path, stdin: int, *, reduced: bool
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Start the command, confined, on a thread that ends with it.

    The thread is needed because the command inherits the thread's confinement, which cannot be undone, and because the
    kernel's parent-death signal is tied to the thread that started the command.
    """
    outcome: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()

    def parent() -> None:
        try:
            sandbox.confine(directory, _readable(command), reduced=reduced)
            with orphans.starting() as note:
                process = subprocess.Popen(
                    command,
                    cwd=directory,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env=_environment(command, directory),
                )
                note(process.pid)
        except BaseException as error:
            outcome.put(error)
            return
        outcome.put(process)
        process.wait()
        orphans.ended(process.pid)

    thread = pipes.in_thread(parent)
    process = outcome.get()
    if isinstance(process, BaseException):
        raise process
    return process, thread


def _environment(command: Sequence[str], directory: Path) -> dict[str, str]:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    if _preloaded and ("--", "ffmpeg") in pairwise(["--", *command]):
        environment["LD_PRELOAD"] = str(_preloaded)
    return environment


def _readable(command: Sequence[str]) -> Iterator[Path]:
    """What a command may read besides its directory and the system: its inputs, and its own code elsewhere."""
    if _preloaded and _preloaded.exists():
        yield _preloaded
    for option, value in pairwise(command):
        paths: list[Path] = []
        if option == "-i" and Path(value).is_absolute():
            paths = [Path(value)]
        elif option == "--" and (tool := find(value)):
            program = Path(tool).resolve()
            paths = [program, program.parent.parent / "lib"]
        yield from (path for path in paths if path.exists())


def _wait(process: subprocess.Popen[bytes], work: Work, timeout_s: float, check: Callable[[], object]) -> int:
    ends_at = time.monotonic() + timeout_s
    waiter = pipes.in_thread(process.wait)  # wait(timeout) may oversleep by 50 ms, as long as a short job takes
    while waiter.is_alive():
        work.stop.check()
        check()
        if time.monotonic() > ends_at:
            raise JobTimeout
        waiter.join(pipes.POLL_S)
    return process.wait()
