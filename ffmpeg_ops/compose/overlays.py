"""The overlays of a film: texts and pictures, which are made once, and videos, which are opened when they are seen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffmpeg_ops.compose.probing import Files
from ffmpeg_ops.engine.clips import frames as clip_frames
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.clips.frames import Target
from ffmpeg_ops.engine.i420 import Frame
from ffmpeg_ops.engine.overlays import placement
from ffmpeg_ops.engine.overlays.overlay import Overlay, Video
from ffmpeg_ops.engine.overlays.placement import Times
from ffmpeg_ops.engine.overlays.prepare import Wanted, prepare
from ffmpeg_ops.engine.overlays.store import LayerStore
from ffmpeg_ops.engine.timeline.layout import Timeline
from ffmpeg_ops.operation import Work
from wire.errors import InvalidParams

MAX_VIDEOS = 2  # that are decoded at a time, besides the scenes


@dataclass(frozen=True)
class Placed:
    """An overlay of a scene or of the film. Exactly one of `made` and `clip` is set."""

    #: Its path in the params.
    path: str
    #: The first frame of the film that shows it.
    first: int
    #: The number of frames for which it may be shown.
    count: int
    #: A text or a picture.
    made: Overlay | None = None
    #: A video.
    clip: Clip | None = None
    #: When the video is shown.
    times: Times | None = None
    #: Left and top edge, width and height of the video.
    box: tuple[int, int, int, int] | None = None
    #: How loud its own sound is, as a factor.
    volume: float = 0.0

    def opened(self, target: Target, work: Work, stack: ExitStack) -> Overlay:
        """The overlay for one rendering, which `stack` closes."""
        if self.made is not None:
            return self.made
        assert self.clip is not None and self.times is not None and self.box is not None
        x, y, width, height = self.box
        frames = _decoded(self.clip, Target((width, height), target.rate), self.count, work)
        return Video(self.times, stack.enter_context(closing(frames)), x, y)


@dataclass(frozen=True)
class Overlays:
    """All overlays of a film."""

    #: For each scene, those that lie on it.
    of_scenes: Sequence[Sequence[Placed]]
    #: Those that lie on the film.
    of_film: Sequence[Placed]

    @property
    def videos(self) -> list[Placed]:
        """Those that are videos."""
        return [one for each in (*self.of_scenes, self.of_film) for one in each if one.clip]


def place(
    params: Mapping[str, Any],
    assets: Mapping[str, Path],
    files: Files,
    timeline: Timeline,
    size: tuple[int, int],
    store: LayerStore,
    work: Work,
    warn: Callable[[str], object],
) -> Overlays:
    """Draw all texts and read all pictures. Raises like `prepare`, and InvalidParams for too many videos at a time."""
    spans = [
        (f"scenes[{i}].", scene, span.first, span.frames, span.overrun)
        for i, (scene, span) in enumerate(zip(params["scenes"], timeline.spans, strict=True))
    ]
    owners = [*spans, ("", params, 0, timeline.frames, 0)]
    wanted = [
        [Wanted(f"{prefix}overlays[{j}]", overlay, frames) for j, overlay in enumerate(owner.get("overlays", []))]
        for prefix, owner, _, frames, _ in owners
    ]
    made = iter(prepare([one for each in wanted for one in each], size, timeline.rate, store, assets, work, warn))
    placed = [
        [_placed(one, next(made), files, first, overrun, size, timeline) for one in each]
        for each, (_, _, first, _, overrun) in zip(wanted, owners, strict=True)
    ]
    made_ready = Overlays(placed[:-1], placed[-1])
    _require_few_videos(made_ready.videos)
    return made_ready


def _placed(
    wanted: Wanted,
    made: Overlay | None,
    files: Files,
    first: int,
    overrun: int,
    size: tuple[int, int],
    timeline: Timeline,
) -> Placed:
    times = placement.times(wanted.params, wanted.path, wanted.frames, timeline.rate)
    count = (wanted.frames + overrun if times.end is None else times.end) - times.first
    if made is not None:
        return Placed(wanted.path, first + times.first, count, made)
    clip = files.clips[f"{wanted.path}.url_video"]
    box = placement.video_box(wanted.params, clip.shown_size, size)
    return Placed(wanted.path, first + times.first, count, None, clip, times, box, wanted.params["volume"])


def _decoded(clip: Clip, target: Target, count: int, work: Work) -> Generator[Frame]:
    with clip_frames.frames(clip, target, start_s=0, count=count, work=work) as made:
        yield from made


def _require_few_videos(videos: Sequence[Placed]) -> None:
    ends: list[int] = []
    for video in sorted(videos, key=lambda one: one.first):
        ends = [end for end in ends if end > video.first]
        if len(ends) == MAX_VIDEOS:
            raise InvalidParams(f"{video.path}: at most {MAX_VIDEOS} videos may lie over the film at a time.")
        ends.append(video.first + video.count)
