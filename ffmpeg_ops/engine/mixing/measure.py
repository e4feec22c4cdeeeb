"""Measures properties of a sound that no header states reliably: its true length and its loudness."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg, process
from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing.filters import RATE, from_its_start
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed

METER = "ebur128=metadata=1:framelog=verbose,ametadata=mode=print:key=lavfi.r128.I:file=-"
SILENCE_LUFS = -69.0  # the meter starts at −70
# The summary at the end of FFmpeg's log.
_SUMMARY = re.compile(r"\s+(I|Peak):\s+(-?[\d.]+|-inf|inf|nan) (?:LUFS|dBFS)")
_INTEGRATED = re.compile(r"lavfi\.r128\.I=(-?[\d.]+)")


class UnsteadySound(Exception):
    """A sound changes its sample rate or channels midway, so FFmpeg resets its filters, which then count wrongly."""


def length_s(path: Path, stream: AudioStream, work: Work) -> tuple[float, bool]:
    """The length of a sound by its decoded samples (0 where none can be decoded), and whether all of it could be.

    Raises UnsteadySound.
    """
    seconds = f"{from_its_start(stream)},asetnsamples=n={RATE}:p=0"  # one line of output a second
    source = [*ffmpeg.INPUT_LIMITS, "-i", str(path), "-map", f"0:{stream.index}"]
    command = [*source, "-af", seconds, "-c:a", "pcm_s16le", *ffmpeg.OUTPUT_LIMITS, "-f", "framecrc", "pipe:1"]
    end = 0
    steady = True

    def on_second(line: str) -> None:
        nonlocal end, steady
        if line and not line.startswith("#"):
            start, length = map(int, line.split(",")[2:4])
            steady &= start >= end
            end = start + length

    damaged = ffmpeg.each_line_of(command, work, on_second)
    if not steady:
        raise UnsteadySound(f"{path.name} restarts before {end / RATE} s")
    return end / RATE, not damaged


def loudness(path: Path, stream: AudioStream, work: Work) -> tuple[float, float]:
    """Integrated loudness (EBU R128) in LUFS and true peak in dBTP of a sound as it is in its file."""
    found = {"I": -math.inf, "Peak": -math.inf}

    def on_line(line: str) -> None:
        if value := _SUMMARY.fullmatch(line):
            found[value[1]] = float(value[2])

    source = [
        *ffmpeg.INPUT_LIMITS,
        "-i",
        str(path),
        "-map",
        f"0:{stream.index}",
        "-af",
        "ebur128=peak=true:framelog=verbose",
    ]
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-v", "info", *source, *ffmpeg.OUTPUT_LIMITS]
    ended = process.run(
        [*command, "-f", "null", "-"],
        work,
        timeout_s=work.limits.timeout_s,
        file_bytes=0,
        on_output=lambda line: None,
        on_error=on_line,
    )
    if ended.status:
        raise EncodeFailed(detail=ended.tail)
    return found["I"], found["Peak"]


def loudness_lufs(inputs: list[str], graph: str, work: Work) -> float:
    """Integrated loudness (EBU R128) of a filter graph that ends in METER and the label `[sound]`."""
    command = [*inputs, "-filter_complex", graph, "-map", "[sound]", *ffmpeg.OUTPUT_LIMITS, "-f", "null", "-"]
    measured = SILENCE_LUFS

    def on_line(line: str) -> None:
        nonlocal measured
        if value := _INTEGRATED.fullmatch(line):
            measured = float(value[1])

    ffmpeg.each_line_of(command, work, on_line)
    return max(measured, SILENCE_LUFS)
