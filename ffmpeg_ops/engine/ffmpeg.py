"""Runs FFmpeg: limits on its inputs and outputs, progress, and the interpretation of its error messages."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import structlog

from ffmpeg_ops.engine import process
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, EncodeFailed, JobError, JobTimeout, OutputTooLarge, WorkerDiskFull

log = structlog.get_logger(__name__)

# Only demuxers of single files: a playlist with the name of a video could otherwise open other files or the network.
FORMATS = (
    "aac,ac3,aiff,amr,asf,avi,caf,dv,eac3,flac,flv,h264,hevc,ivf,m4v,matroska,mov,mp3,mpeg,mpegts,mpegvideo,mxf,nut,"
    "ogg,tta,w64,wav,webm,wv"
)
# The largest picture that is probed, 8192x8192, and the largest that is decoded: 4096x2304 and its padding.
MAX_PROBED, MAX_DECODED = 8192 * 8192, 4160 * 2368
INPUT_LIMITS = ("-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS, "-max_pixels", str(MAX_PROBED))
# FFmpeg's decoders start up to 16 threads, and every thread holds some frames.
_DECODE_THREADS = 8
DECODE_LIMITS = (
    *(*INPUT_LIMITS, "-max_pixels", str(MAX_DECODED)),
    *(("-threads", str(_DECODE_THREADS)) if (os.cpu_count() or 1) > _DECODE_THREADS else ()),
)
MAX_LENGTH_S = 4 * 3600
OUTPUT_LIMITS = ("-t", str(MAX_LENGTH_S))  # a file may be longer than its header says, even endless
_ENCODE = ("ffmpeg", "-hide_banner", "-nostdin", "-y", "-v", "repeat+level+warning", "-progress", "pipe:1")
# FFmpeg's own lines name their source, then the level. Encoders print lines of their own (`x265 [error]: `) as well.
_ERROR = re.compile(r"((?:\[[^\]]+ @ 0x[0-9a-f]+\] )+)\[(?:error|fatal)\] (.*)")
_ERROR_WITHOUT_SOURCE = "[error] Error while decoding stream"
# FFmpeg 6 and later report these for an input. A file that the system cannot open is not damaged.
_NOT_OPENED = re.compile(r"Error opening input: (?:No such file|Permission denied|Too many open files)")
# Sources on the output side: muxers, encoders, filters. The AAC encoder shares the decoder's name; its error is NaN.
_OUTPUT_SIDE = re.compile(
    r"\[(?:out#|[av]ost#|enc:|mp4 |w64 |lib(?:x26[45]|svtav1|aom-av1) |\w+_nvenc "
    r"|[av]f#|fc#|graph|Parsed_|auto_|SWR |swscaler )"
)
# Lines that blame the encoder and not the input: any encoder while it opens, NVENC at any time.
ENCODER_FAILED = re.compile(r"rror while opening encoder|\[\w+_nvenc @ \w+\] \[(?:error|fatal)\]")
_NO_DECODER = re.compile(r"Decoder \(codec \w+\) not found")
_NOT_DECODED = re.compile(
    r"Error while decoding stream|Error submitting packet to decoder|Cannot determine format of input"
)
_NO_NUMBERS = "contains (near) NaN"
_RESTARTED = "[warning] Queue input is backward in time"
# Some encoders' timestamps are wrong in some releases of FFmpeg; the muxer then guesses others.
_GUESSED_TIME = re.compile(r"Invalid DTS: .* replacing by guess")
# FFmpeg then decodes on the CPU. The last one ends each failure, and the others give its reason.
_GPU_DECODER_FAILED = re.compile(
    r"nvcuvid|Hardware is lacking required capabilities"
    r"|Video (?:width|height|macroblock count) \d+ (?:not within range|exceeds maximum)"
    r"|cuvid(?:GetDecoderCaps|CreateDecoder)\(|hwaccel initialisation returned error"
)
# Lines of commands that succeed, which say nothing about the files.
_HARMLESS = re.compile(
    r"Thread message queue blocking|Estimating duration from bitrate|Guessed Channel Layout|deprecated pixel format"
    r"|Input channel layout has a different number of channels"
)
WRONG_TIMES = "it gave frames wrong times"


class Stopped(EncodeFailed):
    """The encode made no progress, died by a signal, or got wrong timestamps."""

    def __init__(self, reason: str, tail: str) -> None:
        super().__init__(detail=f"{reason}\n{tail}")
        #: In plain words.
        self.reason = reason


@dataclass(frozen=True)
class Encoded:
    """What FFmpeg reported about an encode that succeeded."""

    #: Parts of the input that could not be read or decoded.
    errors: int
    #: Video frames written, encoded or copied.
    frames: int
    #: Whether the timestamps of the encoded sound went back. That happens where a source changes its sample rate or
    #: its channels midway and FFmpeg rebuilds its filters.
    restarted: bool = False
    #: Whether the GPU's decoder did not open, so that the CPU has decoded the video.
    gpu_decoder_failed: bool = False


def encode(
    arguments: Sequence[str],
    work: Work,
    *,
    length_s: float,
    feed: Iterable[bytes] | None = None,
    made: Path | None = None,
    stall_s: float = math.inf,
    reduced: str | None = None,
) -> Encoded:
    """Run `ffmpeg` with `arguments`, reporting progress as a share of `length_s` seconds of output.

    `feed` is written to standard input; `made` is the file that comes out, by default `work.output("video")`. `reduced`
    is the reason to run this command in the reduced sandbox.

    Raises the JobError that `feed` raises, the reason of `work.stop`, JobTimeout after `work.limits.timeout_s`,
    OutputTooLarge, WorkerDiskFull, AssetInvalid where an input cannot be decoded, Stopped after `stall_s` without
    progress, at a signal, and for wrong timestamps, or EncodeFailed with the end of standard error as its detail.
    """
    made = made or work.output("video")
    report = _Report(work, length_s, made, stall_s)
    max_bytes = work.limits.max_output_bytes
    ended = process.run(
        [*_ENCODE, *arguments],
        work,
        timeout_s=work.limits.timeout_s,
        file_bytes=max_bytes + 1,  # so that a file that is too large differs from one that just fits
        on_output=report.progress,
        on_error=report.error,
        feed=feed,
        on_fed=report.fed,
        check=report.check,
        reduced=reduced,
    )
    if isinstance(ended.feed_error, JobError):
        raise ended.feed_error
    if ended.feed_error:
        raise EncodeFailed(detail=f"feed: {ended.feed_error!r}") from ended.feed_error
    _raise_failure(ended, report.errors, made, max_bytes)
    if report.guessed:
        raise Stopped(WRONG_TIMES, ended.tail)
    work.progress(1.0)
    return Encoded(report.errors, report.frames, report.restarted, report.gpu_decoder_failed)


class _Report:
    """What a running encode reports: progress on one thread, errors on another."""

    def __init__(self, work: Work, length_s: float, made: Path, stall_s: float) -> None:
        self.errors = self.frames = 0
        self.restarted = self.guessed = self.gpu_decoder_failed = False
        self._work, self._length_s, self._furthest = work, length_s, 0.0
        self._made, self._written_at = made, 0
        self._stall_s, self._moved_at = stall_s, time.monotonic()

    def progress(self, line: str) -> None:
        key, _, value = line.partition("=")
        if not value.strip().isdigit():
            return
        if key == "frame":
            if int(value) > self.frames:
                self._moved_at = time.monotonic()
            self.frames = int(value)
        elif key == "out_time_us":
            self._furthest = max(self._furthest, min(1.0, int(value) / 1_000_000 / self._length_s))
            self._work.progress(self._furthest)

    def fed(self) -> None:
        """Count a piece of the feed as progress: to wait for it is no stall of the encoder."""
        self._moved_at = time.monotonic()

    def check(self) -> None:
        """Raise Stopped when nothing has moved for too long."""
        if self._stall_s == math.inf:
            return
        # The file changes without other progress while its tables move to its start.
        written_at = self._made.stat().st_mtime_ns if self._made.exists() else 0
        if written_at != self._written_at:
            self._written_at, self._moved_at = written_at, time.monotonic()
        if time.monotonic() - self._moved_at > self._stall_s:
            raise Stopped(f"it made no progress for {self._stall_s:g} s", "")

    def error(self, line: str) -> None:
        if _GPU_DECODER_FAILED.search(line):
            self.gpu_decoder_failed = True
            return
        self.errors += is_decode_error(line)
        self.restarted |= _RESTARTED in line
        self.guessed |= _GUESSED_TIME.search(line) is not None


def is_decode_error(line: str) -> bool:
    """Whether a line of FFmpeg's log, with levels, reports a part of the input that could not be read or decoded."""
    if line.startswith(_ERROR_WITHOUT_SOURCE):
        return True
    found = _ERROR.match(line)
    if found is None or _OUTPUT_SIDE.search(found[1]):
        return False
    return "NaN" not in found[2] and not _NOT_OPENED.match(found[2])


def each_line_of(arguments: Sequence[str], work: Work, consume: Callable[[str], object]) -> bool:
    """Pass each line that `ffmpeg` prints to `consume` and return whether it printed errors. Raises like `encode`."""
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", *arguments]
    try:
        return process.each_line_of(command, work, consume, timeout_s=work.limits.timeout_s)
    except EncodeFailed as error:
        raise failure(error.detail or "") from error


@cache
def version() -> str:
    """FFmpeg's version as FFmpeg prints it, for example `5.1.9-0+deb12u1`."""
    return process.output_outside_job(["ffmpeg", "-version"]).split()[2]


def check_installed() -> None:
    """Raise WorkerError when FFmpeg or ffprobe is missing. Starts no process."""
    process.require("ffmpeg")
    process.require("ffprobe")


@cache
def is_from(release: int) -> bool:
    """Whether this FFmpeg is that release or a newer one. Builds without a release number count as new."""
    number = re.match(r"n?(\d+)\.", version())
    return number is None or int(number[1]) >= release


@cache
def has_filter(name: str) -> bool:
    """Whether this FFmpeg was built with a filter."""
    listed = process.output_outside_job(["ffmpeg", "-hide_banner", "-v", "error", "-filters"])
    return any(line.split()[1:2] == [name] for line in listed.splitlines())


def _raise_failure(ended: process.Ended, errors: int, made: Path, max_bytes: int) -> None:
    status, text = ended.status, ended.tail
    if worth := "\n".join(line for line in text.splitlines() if status or not _HARMLESS.search(line)):
        log.warning("ffmpeg.errors_printed", status=status, tail=worth[-4000:])
    size = made.stat().st_size if made.exists() else 0
    if size > max_bytes or status == -signal.SIGXFSZ:
        raise OutputTooLarge
    if status == -signal.SIGXCPU:
        raise JobTimeout
    if "No space left on device" in text:
        raise WorkerDiskFull(detail=text)
    if status > 0:
        raise failure(text, errors)
    if status != 0:
        raise Stopped(f"FFmpeg was killed by signal {-status}", text)
    if size == 0:
        raise EncodeFailed(detail="FFmpeg succeeded and wrote nothing")


def failure(text: str, errors: int = 0) -> JobError:
    """The error for a failed command, from the end of its log and the `errors` of its input.

    An input that cannot be decoded is the job's own fault: another worker could not decode it either.
    """
    if _NO_NUMBERS in text:
        return AssetInvalid("A file is damaged: its sound has values that are no numbers.", detail=text)
    if ENCODER_FAILED.search(text):
        return EncodeFailed(detail=text)
    if _NO_DECODER.search(text):
        return AssetInvalid("A file cannot be decoded: its codec is unknown.", detail=text)
    if errors or _NOT_DECODED.search(text):
        return AssetInvalid("A file is damaged: it could not be decoded.", detail=text)
    return EncodeFailed(detail=text)
