"""Renders the frames of the shot and pipes them into one encode."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg, ladder, output
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.stills import frames, shot
from ffmpeg_ops.engine.stills.camera import Move
from ffmpeg_ops.engine.timeline import rates
from ffmpeg_ops.img2vid import parse_size
from ffmpeg_ops.operation import Work

_BT709 = ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]


def command(size: tuple[int, int], rate: Fraction, count: int, encoder: Encoder) -> list[str]:
    """FFmpeg's arguments that encode `count` raw frames from standard input."""
    return [
        *["-protocol_whitelist", "pipe", "-format_whitelist", "rawvideo", "-max_pixels", str(ffmpeg.MAX_DECODED)],
        *["-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", f"{size[0]}x{size[1]}", "-framerate", str(rate)],
        *[*_BT709, "-chroma_sample_location", "left", "-i", "pipe:0", "-frames:v", str(count)],
        *[*encoder.arguments, *_BT709, "-chroma_sample_location", "left", "-an", *output.MP4],
    ]


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    size, rate = parse_size(params["size"]), rates.exact_rate(params["frame_rate"])
    count = max(1, rates.frame_count(rates.exact_s(params["duration"]), rate))
    focus = (params["focus_x"], params["focus_y"])
    move = Move(params["motion"], params["amount"], focus, params["easing"])
    loaded = shot.load(work, assets["url_image"], "url_image", move, size, count, params["fit"], params["background"])
    made = ladder.encode(
        lambda encoder: command(size, rate, count, encoder),
        work,
        Encoding.of(params),
        length_s=float(count / rate),
        pixels=size[0] * size[1],
        megapixels=size[0] * size[1] * count / 1e6,
        feed=lambda: frames.render(loaded.pixels, loaded.boxes, size),
    )
    output.require_written(count, work)
    info = output.made(size, count, float(count / rate))
    return output.stats(work, made.stats, info, warnings=[*loaded.warnings, *made.warnings])
