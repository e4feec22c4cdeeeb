"""The pictures of one scene, frame by frame, before overlays and transitions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from ffmpeg_ops.engine.clips import frames as clip_frames
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.clips.frames import Target
from ffmpeg_ops.engine.i420 import Frame, blank
from ffmpeg_ops.engine.stills import frames, shot
from ffmpeg_ops.engine.stills.camera import Move
from ffmpeg_ops.engine.timeline.layout import Span
from ffmpeg_ops.operation import Work


@dataclass(frozen=True)
class Scene:
    """One scene that is ready to be drawn."""

    #: Its loaded SceneParams.
    params: Mapping[str, Any]
    #: Its path in the params: `scenes[2]`.
    name: str
    #: Where it is in the film.
    span: Span
    #: The file of its still, None for another source.
    still: Path | None = None
    #: Its clip, None for another source.
    clip: Clip | None = None

    @property
    def count(self) -> int:
        """How many frames it is seen for, including those while the next scene comes in."""
        return self.span.frames + self.span.overrun


def draw(scene: Scene, target: Target, work: Work, warn: Callable[[str], object]) -> Generator[Frame | None]:
    """Yield None once the source is open, then `scene.count` frames of the `target`; whatever is open ends with it.

    Frames may be shared: nothing may write into them. Raises AssetInvalid and the reason of `work.stop`.
    """
    if scene.still is not None:
        yield from _still(scene, scene.still, target, work, warn)
    elif scene.clip is not None:
        yield from _clip(scene, scene.clip, target, work, warn)
    else:
        yield None
        yield from repeat(blank(target.size, scene.params["color"]), scene.count)


def _still(
    scene: Scene, path: Path, target: Target, work: Work, warn: Callable[[str], object]
) -> Generator[Frame | None]:
    params, size = scene.params, target.size
    moves = params["motion"] != "none"
    move = Move(params["motion"], params["amount"], (params["focus_x"], params["focus_y"]), params["easing"])
    count = scene.count if moves else 1
    name = f"{scene.name}.url_image"
    loaded = shot.load(work, path, name, move, size, count, params["fit"], params["background"])
    for warning in loaded.warnings:
        warn(warning)
    yield None
    shape = (size[1] * 3 // 2, size[0])
    for raw in frames.render(loaded.pixels, loaded.boxes, size):
        frame = np.frombuffer(raw, np.uint8).reshape(shape)
        yield from repeat(frame, 1 if moves else scene.count)


def _clip(
    scene: Scene, clip: Clip, target: Target, work: Work, warn: Callable[[str], object]
) -> Generator[Frame | None]:
    params = scene.params
    target = replace(target, fit=params["fit"], background=params["background"])
    opened = clip_frames.frames(
        clip, target, start_s=params["start"], count=scene.count, work=work, when_short=params["when_short"]
    )
    with opened as made:
        yield None
        yield from made
    if made.errors:
        warn(f"{clip.name}: {made.errors} decode error{'s' if made.errors > 1 else ''}")
