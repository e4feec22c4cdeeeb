"""Renders the frames of the shot and pipes them into one encode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import film, output
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.picture_params import parse_size
from ffmpeg_ops.engine.stills import frames, shot
from ffmpeg_ops.engine.stills.camera import Move
from ffmpeg_ops.operation import Work

_BROADCAST = frozenset({15, 24, 30, 48, 60})


def exact_rate(frame_rate: float) -> Fraction:
    """Frames a second as a fraction; 23.976, 29.97 and 59.94 mean the broadcast rates n·1000/1001."""
    broadcast = Fraction(round(frame_rate) * 1000, 1001)
    if round(frame_rate) in _BROADCAST and not frame_rate.is_integer() and abs(broadcast - frame_rate) < 0.005:
        return broadcast
    return Fraction(frame_rate).limit_denominator(1000)


def frame_count(duration: float, frame_rate: float) -> int:
    """`duration × frame_rate`, rounded half up, at least one frame."""
    return max(1, math.floor(duration * frame_rate + 0.5))


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    size, rate = parse_size(params["size"]), exact_rate(params["frame_rate"])
    count = frame_count(params["duration"], params["frame_rate"])
    focus = (params["focus_x"], params["focus_y"])
    move = Move(params["motion"], params["amount"], focus, params["easing"])
    loaded = shot.load(work, assets["url_image"], "url_image", move, size, count, params["fit"], params["background"])
    drawn = film.Film(size, rate, count)
    made = film.encode(drawn, work, Encoding.of(params), lambda: frames.render(loaded.pixels, loaded.boxes, size))
    info = output.made(size, count, drawn.length_s)
    return output.stats(work, made.stats, info, warnings=[*loaded.warnings, *made.warnings])
