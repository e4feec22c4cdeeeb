"""Probes all videos, then makes one video of them in one encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.clips.splice import Piece, splice, target_of
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.picture_params import parse_size
from ffmpeg_ops.engine.timeline.rates import exact_s, frame_count
from ffmpeg_ops.operation import Work
from wire.errors import AssetTooLarge


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    clips: list[Clip] = []
    length_s = 0.0
    for name, path in assets.items():
        clips.append(Clip.open(path, name, work, warnings.append))
        warnings += clips[-1].info.audio_warnings
        length_s += clips[-1].length_s
        if length_s > ffmpeg.MAX_LENGTH_S:
            raise AssetTooLarge(f"{name}: the videos are longer than {ffmpeg.MAX_LENGTH_S // 3600} hours together.")
    size = None if params["size"] is None else parse_size(params["size"])
    target = target_of(clips[0], size, params)
    pieces = in_sequence(clips, target.rate)
    stats = splice(pieces, target, work, Encoding.of(params))
    starts = list(accumulate((piece.frames for piece in pieces), initial=0))[:-1]
    found = [*warnings, *stats.pop("warnings", [])]
    result = {"starts": [round(float(start / target.rate), 6) for start in starts]}
    return {**stats, **({"warnings": found} if found else {}), "result": result}


def in_sequence(clips: Sequence[Clip], rate: Fraction) -> list[Piece]:
    """The whole clips, one after another. Each begins at the frame nearest to the sum of the lengths before it."""
    ends = [0]
    total = Fraction(0)
    for clip in clips:
        total += exact_s(clip.length_s)
        ends.append(max(ends[-1] + 1, frame_count(total, rate)))
    return [Piece(clip, 0.0, end - begin) for clip, (begin, end) in zip(clips, pairwise(ends), strict=True)]
