"""Decides where a video needs frames of its own for its captions: in the gaps between its frames."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ffmpeg_ops.engine import inspect, packets
from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.operation import Work

SHORT_S = 0.201  # captions may begin and end so much too late: a frame of five a second, in whole milliseconds
_TAIL_S = 0.4  # a long last frame gets so much: with B-frames, MP4 cannot say how long it is shown
_MAX_GAPS = 200  # of which each is a part of a filter's expression


@dataclass(frozen=True)
class Filling:
    """Where frames are added, so that captions are seen while they last."""

    #: When the output ends, in seconds.
    until_s: float
    #: The times between which frames are added; everywhere if there are none.
    gaps: tuple[tuple[float, float], ...] = ()


def filling(
    cues: Sequence[Cue],
    info: inspect.MediaInfo,
    stream: inspect.VideoStream,
    length_s: float,
    times: Sequence[float],
    *,
    moving: bool,
) -> Filling | None:
    """Where a video of `length_s` needs frames; None where it needs none.

    `times` says when its frames are shown. Captions change where they begin and end, and all the time if they are
    `moving`, as highlighted ones are. The last frame of a video stays while its sound lasts.
    """
    end_s = stream.start_s - info.start_s + length_s
    stays_s = played_s(info, length_s)
    until_s = stays_s if end_s <= max(cue.start_ms for cue in cues) / 1000 < stays_s else end_s
    changes = sorted({ms / 1000 for cue in cues for ms in (cue.start_ms, cue.end_ms)})
    edges = [*(time for time in times if time < until_s), until_s]
    found = [(a, b) for a, b in pairwise(edges) if b - a > SHORT_S and (moving or _any_between(changes, a, b))]
    if not found:
        return None
    if until_s - edges[-2] > SHORT_S and found[-1][1] < until_s:
        found.append((max(edges[-2], until_s - _TAIL_S), until_s))
    everywhere = len(found) > _MAX_GAPS or sum(b - a for a, b in found) > until_s / 2
    return Filling(until_s, () if everywhere else tuple(found))


def _any_between(times: Sequence[float], begin_s: float, end_s: float) -> bool:
    after = bisect_right(times, begin_s)
    return after < len(times) and times[after] < end_s


def played_s(info: inspect.MediaInfo, length_s: float) -> float:
    """How long players show a video: its last frame stays while there is sound."""
    return max(length_s, info.duration_s or 0, (info.audio and info.audio.duration_s) or 0)


def frame_times(path: Path, info: inspect.MediaInfo, stream: inspect.VideoStream, work: Work) -> Sequence[float]:
    """When the frames of a video are shown, in seconds of the output; only the last one where there are no gaps."""
    if "mov" in info.formats and stream.constant_rate and stream.frame_rate > 1 / SHORT_S and stream.duration_s:
        return [stream.start_s - info.start_s + stream.duration_s - 1 / float(stream.frame_rate)]
    return [time - info.start_s for time in packets.frame_times(path, stream.index, work)]
