"""Finds the frames of every part, and makes one video of the parts in one encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.clips.splice import Piece, like, splice
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.timeline.rates import exact_s, frame_count
from ffmpeg_ops.operation import Work
from wire.errors import AssetTooLarge, InvalidParams

_ROUNDING_S = 0.001  # of lengths in headers


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    clip = Clip.open(assets["url_video"], "url_video", work, warnings.append)
    warnings += clip.info.audio_warnings
    target = like(clip)
    named = {f"parts[{i}].": part for i, part in enumerate(params.get("parts", []))} or {"": params}
    pieces = [piece(clip, part, path, target.rate, warnings.append) for path, part in named.items()]
    if sum(part.frames for part in pieces) / target.rate > ffmpeg.MAX_LENGTH_S:
        raise AssetTooLarge(f"parts: they are longer than {ffmpeg.MAX_LENGTH_S // 3600} hours together.")
    stats = splice(pieces, target, work, Encoding.of(params))
    ends = [float(exact_s(part.start_s) + part.frames / target.rate) for part in pieces]
    result = {"parts": [{"start": part.start_s, "end": round(end, 6)} for part, end in zip(pieces, ends, strict=True)]}
    found = [*warnings, *stats.pop("warnings", [])]
    return {**stats, **({"warnings": found} if found else {}), "result": result}


def piece(clip: Clip, part: Mapping[str, Any], path: str, rate: Fraction, warn: Callable[[str], object]) -> Piece:
    """The frames of a part whose params are at `path`. Raises InvalidParams for one that begins after the video."""
    start, length = exact_s(part.get("start", 0.0)), exact_s(clip.length_s)
    if start >= length:
        raise InvalidParams(f"{path}start: the video ends after {clip.length_s:.2f} seconds.")
    name = "duration" if "duration" in part else "end"
    end = length
    if name in part:
        wanted = exact_s(part[name]) + (start if name == "duration" else 0)
        if wanted > length + Fraction(_ROUNDING_S):
            warn(f"{path}{name}: the video ends after {clip.length_s:.2f} seconds")
        end = min(wanted, length)
    return Piece(clip, float(start), max(1, frame_count(end - start, rate)))
