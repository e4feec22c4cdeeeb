"""The only place that starts a process for a job: FFmpeg and ffprobe, as argv lists, under limits.

A command runs in its own process group and in the attempt's private directory. It is killed as a group when the work
is told to stop, when its time is over, and by the kernel when this process dies. It has no network, and of the disk the
system's files, that directory and the inputs that it names (see `walls.py`). What it says on standard error goes to the
log and never to a client.
"""

from __future__ import annotations

import math
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO

import structlog

from ffmpeg_ops.engine import sandbox
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, EncodeFailed, JobError, JobTimeout, OutputTooLarge, WorkerDiskFull, WorkerError

log = structlog.get_logger(__name__)

# Only demuxers of single files: a playlist named .mp4 could otherwise open other files or the network.
FORMATS = (
    "aac,ac3,aiff,amr,asf,avi,caf,dv,eac3,flac,flv,h264,hevc,ivf,m4v,matroska,mov,mp3,mpeg,mpegts,mpegvideo,mxf,nut,"
    "ogg,tta,w64,wav,webm,wv"
)
# The largest picture that is looked into, 8192x8192, and the largest that is decoded: 4096x2304, and what pads it.
MAX_PROBED, MAX_DECODED = 8192 * 8192, 4160 * 2368
INPUT_LIMITS = ("-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS, "-max_pixels", str(MAX_PROBED))
DECODE_LIMITS = (*INPUT_LIMITS, "-max_pixels", str(MAX_DECODED))
MAX_LENGTH_S = 4 * 3600
OUTPUT_LIMITS = ("-t", str(MAX_LENGTH_S))  # a header that tells less than there is does not make it endless
PROBE_TIMEOUT_S = 30
_SHORT_OUTPUT_BYTES = 8_000_000
_SHORT_FILE_BYTES = 16_000_000  # a short command writes a cache of fonts at most
_OPEN_FILES = 1024
_LINE_BYTES = 64_000
_TAIL_LINES = 40
_ENCODE = ("ffmpeg", "-hide_banner", "-nostdin", "-y", "-v", "repeat+level+warning", "-progress", "pipe:1")
# FFmpeg's own lines name who speaks, then the level. Encoders print lines of their own (`x265 [error]: `) as well.
_ERROR = re.compile(r"((?:\[[^\]]+ @ 0x[0-9a-f]+\] )+)\[(?:error|fatal)\] (.*)")
_NO_SPEAKER = "[error] Error while decoding stream"
# Since FFmpeg 6 it is an input that says so. What this system does not open is not damaged.
_NOT_OPENED = re.compile(r"Error opening input: (?:No such file|Permission denied|Too many open files)")
# Who speaks of the output: muxers, encoders, filters. The AAC encoder has the decoder's name; its error is of NaN.
_OF_OUTPUT = re.compile(
    r"\[(?:out#|[av]ost#|enc:|mp4 |w64 |lib(?:x26[45]|svtav1|aom-av1) |\w+_nvenc "
    r"|[av]f#|fc#|graph|Parsed_|auto_|SWR |swscaler )"
)
# What it says when it is the encoder that failed, and not the input; the second, of the GPU's at any time.
ENCODER_FAILED = re.compile(r"rror while opening encoder|\[\w+_nvenc @ \w+\] \[(?:error|fatal)\]")
_NO_DECODER = re.compile(r"Decoder \(codec \w+\) not found")
_NOT_DECODED = re.compile(
    r"Error while decoding stream|Error submitting packet to decoder|Cannot determine format of input"
)
_RESTARTED = "[warning] Queue input is backward in time"
_POLL_S = 0.1


@dataclass(frozen=True)
class Encoded:
    """How an encode that ended well went. `errors`: parts of the input that could not be decoded; `frames` of picture
    that were written, encoded or copied; `restarted`: times of the encoded sound went back, as they do where a source
    changes its rate or its channels on the way and FFmpeg begins its filters anew."""

    errors: int
    frames: int
    restarted: bool = False


def encode(
    arguments: Sequence[str],
    work: Work,
    *,
    length_s: float,
    feed: Iterable[bytes] | None = None,
    made: Path | None = None,
) -> Encoded:
    """Run `ffmpeg` with `arguments`; progress goes to `work.progress` as a share of `length_s` seconds of output.

    `feed` is written to standard input; `made` is the file that comes out, by default `work.output("video")`. Raises
    the reason of `work.stop`, JobTimeout after `work.limits.timeout_s`, OutputTooLarge, WorkerDiskFull, AssetInvalid
    where an input cannot be decoded, or EncodeFailed with the end of standard error as its detail.
    """
    # One byte more than allowed, so that a file that is too large can be told from one that just fits.
    cpu_s = work.limits.timeout_s * (os.cpu_count() or 1)
    command = _sandboxed([*_ENCODE, *arguments], file_bytes=work.limits.max_output_bytes + 1, cpu_s=cpu_s)
    heard = _Heard(work, length_s)
    feed_errors: list[Exception] = []
    with _running(command, work.directory, feed) as process:
        others = [_read(process.stdout, heard.progress), _read(process.stderr, heard.complaint)]
        if feed is not None:
            others.append(_write(process.stdin, feed, feed_errors))
        status = _wait(process, work)
        for other in others:
            other.join()
    _judge(status, heard.tail, heard.errors, made or work.output("video"), work.limits.max_output_bytes)
    if feed_errors:  # FFmpeg took the end of its input for the end of the video
        raise EncodeFailed(detail=f"feed: {feed_errors[0]!r}") from feed_errors[0]
    work.progress(1.0)
    return Encoded(heard.errors, heard.frames, heard.restarted)


class _Heard:
    """What a running encode says: progress, line by line, on one thread, complaints on another."""

    def __init__(self, work: Work, length_s: float) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.errors = self.frames = 0
        self.restarted = False
        self._work, self._length_s, self._furthest = work, length_s, 0.0

    def progress(self, line: str) -> None:
        key, _, value = line.partition("=")
        if not value.strip().isdigit():
            return
        if key == "frame":
            self.frames = int(value)
        elif key == "out_time_us":
            self._furthest = max(self._furthest, min(1.0, int(value) / 1_000_000 / self._length_s))
            self._work.progress(self._furthest)

    def complaint(self, line: str) -> None:
        self.errors += is_decode_error(line)
        self.restarted |= _RESTARTED in line
        self.tail.append(line)


def is_decode_error(line: str) -> bool:
    """Whether a line of FFmpeg's log, with levels, tells of a part of the input that could not be read or decoded."""
    if line.startswith(_NO_SPEAKER):
        return True
    found = _ERROR.match(line)
    if found is None or _OF_OUTPUT.search(found[1]):
        return False
    return "NaN" not in found[2] and not _NOT_OPENED.match(found[2])


def output_of(command: Sequence[str], work: Work, *, timeout_s: float = PROBE_TIMEOUT_S) -> bytes:
    """Standard output of a short command. Raises like `encode`; a failure, or too much of it, is EncodeFailed."""
    out: list[str] = []
    size = 0

    def keep(line: str) -> None:
        nonlocal size
        size += len(line) + 1
        if size <= _SHORT_OUTPUT_BYTES:
            out.append(line)

    each_line_of(command, work, keep, timeout_s=timeout_s)
    if size > _SHORT_OUTPUT_BYTES:
        raise EncodeFailed(detail=f"{command[0]} said {size} bytes")
    return "\n".join(out).encode()


def each_line_of(
    command: Sequence[str], work: Work, consume: Callable[[str], object], *, timeout_s: float = PROBE_TIMEOUT_S
) -> bool:
    """Give `consume` every line of a short command's standard output and keep none. Raises like `output_of`.

    Answers whether it also had something to say on standard error.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    cpu_s = math.ceil(timeout_s) * (os.cpu_count() or 1)
    limited = _sandboxed(list(command), file_bytes=_SHORT_FILE_BYTES, cpu_s=cpu_s)
    with _running(limited, work.directory, None) as process:
        readers = [_read(process.stdout, consume), _read(process.stderr, tail.append)]
        status = _wait(process, work, timeout_s)
        for reader in readers:
            reader.join()
    if status == -signal.SIGXCPU:
        raise JobTimeout
    if status < 0:
        raise WorkerError(detail=f"{command[0]} was killed by signal {-status}")
    if status != 0:
        text = "\n".join(tail)
        raise _failure(text) if command[0] == "ffmpeg" else EncodeFailed(detail=text)
    return bool(tail)


@cache
def version() -> str:
    """FFmpeg's version as it tells it, for example `5.1.9-0+deb12u1`."""
    line = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, timeout=10, check=True).stdout
    return line.split()[2]


def check_installed() -> None:
    """Raises WorkerError when FFmpeg or ffprobe is missing. Starts nothing."""
    for name in ("ffmpeg", "ffprobe"):
        if _tool(name) is None:
            raise WorkerError(f"{name} is not installed on the worker.")


@cache
def is_from(release: int) -> bool:
    """Whether this FFmpeg is of that release or a newer one; builds that tell no release are taken for new ones."""
    told = re.match(r"n?(\d+)\.", version())
    return told is None or int(told[1]) >= release


@cache
def has_filter(name: str) -> bool:
    """Whether this FFmpeg was built with a filter."""
    command = ["ffmpeg", "-hide_banner", "-v", "error", "-filters"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    return any(line.split()[1:2] == [name] for line in listed.splitlines())


@cache
def _tool(name: str) -> str | None:
    return shutil.which(name)


def _sandboxed(command: list[str], *, file_bytes: int, cpu_s: int) -> list[str]:
    """`command` under util-linux's setpriv (die with us) and prlimit, where the system has them."""
    if _tool(command[0]) is None:
        raise WorkerError(f"{command[0]} is not installed on the worker.")
    if _tool("prlimit"):
        limits = [f"--fsize={file_bytes}", f"--cpu={cpu_s}", f"--nofile={_OPEN_FILES}", "--core=0"]
        command = ["prlimit", *limits, "--", *command]
    if _tool("setpriv"):
        powers = ["--bounding-set=-all", "--inh-caps=-all"] if sandbox.drops_capabilities() else []
        command = ["setpriv", "--pdeathsig", "KILL", *powers, "--", *command]
    return command


@contextmanager
def _running(command: list[str], directory: os.PathLike[str], feed: object) -> Iterator[subprocess.Popen[bytes]]:
    """The started command; whatever happens inside, its whole group is dead afterwards."""
    process, parent = _spawned(command, directory, subprocess.PIPE if feed is not None else subprocess.DEVNULL)
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        parent.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            _close(pipe)


def _spawned(
    command: list[str], directory: os.PathLike[str], stdin: int
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Start the command on a thread of its own, behind walls that it inherits; the thread ends with the command.

    To die with its parent means, for the kernel, with the thread that started it.
    """
    outcome: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()

    def parent() -> None:
        try:
            sandbox.confine(Path(directory), _readable(command))
            process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "LC_ALL": "C.UTF-8"},
            )
        except BaseException as error:
            outcome.put(error)
            return
        outcome.put(process)
        process.wait()

    thread = _start(parent)
    process = outcome.get()
    if isinstance(process, BaseException):
        raise process
    return process, thread


def _readable(command: Sequence[str]) -> Iterator[Path]:
    """What a command may read besides its directory and the system: its inputs, and itself where it lies elsewhere."""
    for option, value in pairwise(command):
        paths: list[Path] = []
        if option == "-i" and Path(value).is_absolute():
            paths = [Path(value)]
        elif option == "--" and (tool := _tool(value)):
            at = Path(tool).resolve()
            paths = [at, at.parent.parent / "lib"]
        yield from (path for path in paths if path.exists())


def _wait(process: subprocess.Popen[bytes], work: Work, timeout_s: float | None = None) -> int:
    ends_at = time.monotonic() + (timeout_s or work.limits.timeout_s)
    waiter = _start(process.wait)  # wait() with a time-out sleeps up to 50 ms too long, as much as a short job takes
    while waiter.is_alive():
        work.stop.check()
        if time.monotonic() > ends_at:
            raise JobTimeout
        waiter.join(_POLL_S)
    return process.wait()


def _read(pipe: IO[bytes] | None, consume: Callable[[str], object]) -> threading.Thread:
    def loop() -> None:
        assert pipe is not None
        try:
            while line := pipe.readline(_LINE_BYTES):
                consume(line.decode("utf-8", "replace").rstrip("\n"))
        except ValueError:
            pass  # closed under us because the command was killed

    return _start(loop)


def _write(pipe: IO[bytes] | None, feed: Iterable[bytes], errors: list[Exception]) -> threading.Thread:
    def loop() -> None:
        assert pipe is not None
        try:
            for piece in feed:
                pipe.write(piece)
        except (BrokenPipeError, ValueError):
            pass  # the command ended or was killed; its exit status tells
        except Exception as error:
            log.exception("ffmpeg.feed_failed")
            errors.append(error)
        finally:
            _close(pipe)

    return _start(loop)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except (OSError, ValueError):
        pass  # what was still buffered for a dead command


def _start(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def _judge(status: int, tail: Iterable[str], errors: int, made: Path, max_bytes: int) -> None:
    text = "\n".join(tail)
    if text:
        log.warning("ffmpeg.stderr", status=status, tail=text[-4000:])
    size = made.stat().st_size if made.exists() else 0
    if size > max_bytes or status == -signal.SIGXFSZ:
        raise OutputTooLarge
    if status == -signal.SIGXCPU:
        raise JobTimeout
    if "No space left on device" in text:
        raise WorkerDiskFull(detail=text)
    if status > 0:
        raise _failure(text, errors)
    if status != 0:
        raise EncodeFailed(detail=text)
    if size == 0:
        raise EncodeFailed(detail="FFmpeg ended well and wrote nothing")


def _failure(text: str, errors: int = 0) -> JobError:
    """What a command died of, by its last words and the `errors` of its input. An input that cannot be decoded is the
    job's own fault: another worker could not decode it either."""
    if ENCODER_FAILED.search(text):
        return EncodeFailed(detail=text)
    if _NO_DECODER.search(text):
        return AssetInvalid("A file cannot be decoded: its codec is unknown.", detail=text)
    if errors or _NOT_DECODED.search(text):
        return AssetInvalid("A file is damaged: it could not be decoded.", detail=text)
    return EncodeFailed(detail=text)
