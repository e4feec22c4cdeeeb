"""Makes the video in one encode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg, inspect, ladder, output
from ffmpeg_ops.engine.clips import filters
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.picture_params import parse_size
from ffmpeg_ops.engine.pixels import to_one_size, to_yuv420p
from ffmpeg_ops.engine.timeline.rates import exact_rate
from ffmpeg_ops.operation import Work

_SLACK = 2  # frames, for rounding in headers and edit lists


def size_of(clip: Clip, wanted: str | None) -> tuple[int, int]:
    """Width and height of the output, by default those in which the clip is shown."""
    return clip.shown_size if wanted is None else parse_size(wanted)


def chain(clip: Clip, params: Mapping[str, Any], rate: Fraction | None) -> str:
    """FFmpeg's video filters. Pixels that keep their size are not resampled."""
    stream = clip.stream
    timed = [*clip.on_time(), *(filters.at_rate(rate, stream) if rate else [])]
    if params["size"] is None and stream.pixel_aspect == 1:
        return ",".join([*timed, *to_one_size(stream), *to_yuv420p(stream)])
    size = size_of(clip, params["size"])
    return ",".join([*timed, filters.picture(stream, size, params["fit"], params["background"])])


def command(clip: Clip, params: Mapping[str, Any], rate: Fraction | None, encoder: Encoder) -> list[str]:
    """FFmpeg's arguments."""
    stream, info = clip.stream, clip.info
    if rate:
        clock = ["-r", str(rate), "-fps_mode", "cfr"]
    else:  # the source's own time base, so that frames at a variable rate keep their exact timestamps
        clock = ["-fps_mode", "passthrough"]
        clock += [] if clip.counted else ["-enc_time_base:v", str(stream.time_base)]
    return [
        *[*ffmpeg.DECODE_LIMITS, *encoder.input_options, "-i", str(clip.path), "-map", f"0:{stream.index}"],
        *["-vf", chain(clip, params, rate), *clock, *encoder.arguments],
        *(output.keep_audio(info) if params["sound"] == "keep" else ["-an"]),
        *output.MP4,
    ]


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    clip = Clip.open(assets["url_video"], "url_video", work, warnings.append)
    rate = None if params["frame_rate"] is None else exact_rate(params["frame_rate"])
    width, height = size_of(clip, params["size"])
    shown = replace(clip.stream, width=width, height=height)
    inspect.require_size(shown, "url_video")
    heard = clip.info if params["sound"] == "keep" else replace(clip.info, audio=None, audio_warnings=())
    made = ladder.encode(
        lambda encoder: command(clip, params, rate, encoder),
        work,
        Encoding.of(params),
        length_s=clip.length_s,
        pixels=width * height,
        megapixels=replace(shown, frame_rate=rate or shown.frame_rate).megapixels(clip.length_s),
        sound_bytes=lambda: output.sound_bytes(clip.path, heard, clip.length_s, work),
        decodes=True,
    )
    encoded = made.encoded
    output.require_written(encoded.frames, work)
    if rate is None:
        output.require_frames(encoded.frames, clip.path, clip.stream, clip.length_s, work)
    elif encoded.errors and encoded.frames + _SLACK < inspect.MIN_COMPLETE * (expected := int(clip.length_s * rate)):
        raise output.damaged(encoded.frames, expected)
    warnings += [*heard.audio_warnings, *made.warnings]
    return output.stats(work, made.stats, warnings=warnings, errors=encoded.errors)
