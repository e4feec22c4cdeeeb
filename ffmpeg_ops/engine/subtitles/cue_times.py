"""Fits cues to the length of a video: whole hours too late are taken off, and cues outside it are reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ffmpeg_ops.engine.subtitles.cue import Cue
from wire.errors import AssetInvalid

_HOUR_MS = 3_600_000


def fit(cues: Sequence[Cue], length_s: float, name: str, warn: Callable[[str], object]) -> list[Cue]:
    """The cues of param `name` that are seen in a video of that length. Raises AssetInvalid when there are none."""
    length_ms = round(length_s * 1000)
    hours = min(cue.start_ms for cue in cues) // _HOUR_MS
    if hours > 0 and not _all_start_within(cues, length_ms):
        # editors let a timeline begin at 01:00:00
        moved = [_moved(cue, -hours * _HOUR_MS) for cue in cues]
        if _all_start_within(moved, length_ms):
            warn(f"{name}: all captions begin after {hours:02d}:00:00, past the video; that offset was taken off")
            cues = moved
    seen = [cue for cue in cues if max(0, cue.start_ms) < min(cue.end_ms, length_ms)]
    if not seen:
        raise AssetInvalid(f"{name}: no cue lies within the video, which is {length_s:.1f} s long.")
    if len(seen) < len(cues):
        lost = f"{len(cues) - len(seen)} of {len(cues)} captions"
        warn(f"{name}: {lost} lie outside the video or end when they begin, and are never seen")
    return seen


def _all_start_within(cues: Sequence[Cue], length_ms: int) -> bool:
    return max(cue.start_ms for cue in cues) < length_ms


def _moved(cue: Cue, by_ms: int) -> Cue:
    spans = tuple(replace(span, start_ms=span.start_ms + by_ms, end_ms=span.end_ms + by_ms) for span in cue.spans)
    return replace(cue, start_ms=cue.start_ms + by_ms, end_ms=cue.end_ms + by_ms, spans=spans)
