"""Renders the frames of the shot and pipes them into one encode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import film, output
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.picture_params import parse_size
from ffmpeg_ops.engine.stills import frames, shot
from ffmpeg_ops.engine.stills.camera import Move
from ffmpeg_ops.engine.timeline import rates
from ffmpeg_ops.operation import Work


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    size, rate = parse_size(params["size"]), rates.exact_rate(params["frame_rate"])
    count = max(1, rates.frame_count(rates.exact_s(params["duration"]), rate))
    focus = (params["focus_x"], params["focus_y"])
    move = Move(params["motion"], params["amount"], focus, params["easing"])
    loaded = shot.load(work, assets["url_image"], "url_image", move, size, count, params["fit"], params["background"])
    drawn = film.Film(size, rate, count)
    made = film.encode(drawn, work, Encoding.of(params), lambda: frames.render(loaded.pixels, loaded.boxes, size))
    info = output.made(size, count, drawn.length_s)
    return output.stats(work, made.stats, info, warnings=[*loaded.warnings, *made.warnings])
