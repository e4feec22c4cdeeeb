"""What has to be measured because no header tells it: the sound's true length, its loudness, the picture's packets."""

from __future__ import annotations

import re
from pathlib import Path

from ffmpeg_ops.adiciona_audio.video_track import Packet
from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.inspect import AudioStream, VideoStream, each_packet
from ffmpeg_ops.engine.mixing.sound import RATE, from_its_start
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, AssetTooLarge

_TO_FRAMECRC = [*ffmpeg.OUTPUT_LIMITS, "-f", "framecrc", "pipe:1"]
_INTEGRATED = re.compile(r"lavfi\.r128\.I=(-?[\d.]+)")
MAX_PACKETS = 1_000_000  # four hours at 60 frames a second are fewer
SILENCE_LUFS = -69.0  # the meter starts at −70


class Unsteady(Exception):
    """A sound changes its rate or its channels on the way: FFmpeg begins its filters anew, and they lose count."""


def sound_s(path: Path, stream: AudioStream, work: Work) -> tuple[float, bool]:
    """How long a sound is by its decoded samples, and whether all of it could be decoded.

    Raises AssetInvalid when nothing could, or Unsteady.
    """
    seconds = f"{from_its_start(stream)},asetnsamples=n={RATE}:p=0"  # one line of output a second
    source = [*ffmpeg.INPUT_LIMITS, "-i", str(path), "-map", f"0:{stream.index}"]
    command = [*source, "-af", seconds, "-c:a", "pcm_s16le", *_TO_FRAMECRC]
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
        raise Unsteady(f"{path.name} begins anew before {end / RATE} s")
    if not end:
        raise AssetInvalid("url_audio: the file's sound cannot be decoded.")
    return end / RATE, not damaged


def loudness_lufs(inputs: list[str], graph: str, work: Work) -> float:
    """Integrated loudness (EBU R128) of what a filter graph that ends in METER makes."""
    command = [*inputs, "-filter_complex", graph, "-map", "[sound]", *ffmpeg.OUTPUT_LIMITS, "-f", "null", "-"]
    measured = SILENCE_LUFS

    def on_line(line: str) -> None:
        nonlocal measured
        if value := _INTEGRATED.fullmatch(line):
            measured = float(value[1])

    ffmpeg.each_line_of(command, work, on_line)
    return measured


METER = "ebur128=metadata=1:framelog=verbose,ametadata=mode=print:key=lavfi.r128.I:file=-"


def packets(path: Path, stream: VideoStream, work: Work) -> list[Packet]:
    """The picture's packets as they are stored, without decoding. Raises AssetTooLarge past MAX_PACKETS."""
    found: list[Packet] = []

    def on_packet(line: str) -> None:
        pts, _, flags = line.partition(",")
        if flags and pts != "N/A" and len(found) <= MAX_PACKETS:
            found.append(Packet(float(pts) - stream.start_s, "K" in flags))

    each_packet(path, ["pts_time", "flags"], on_packet, work, stream.index)
    if len(found) > MAX_PACKETS:
        raise AssetTooLarge(f"url_video: the picture has more than {MAX_PACKETS} frames.")
    return found
