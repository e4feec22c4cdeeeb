"""The frames of the whole film, in order: scenes with their overlays, transitions, and overlays over all of it.

Scenes are opened one ahead, so that the encoder does not wait for a picture to be loaded. While one scene comes in,
three are open: the one before it, itself, and the next. Frames are put together on all cores; they wait for the
encoder, so that memory does not grow with the film.
"""

from __future__ import annotations

import contextvars
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

from ffmpeg_ops.compose import scenes, transitions
from ffmpeg_ops.compose.overlays import Overlays, Placed
from ffmpeg_ops.compose.scenes import Scene
from ffmpeg_ops.engine.clips.frames import Target
from ffmpeg_ops.engine.i420 import Frame, Layer, blend
from ffmpeg_ops.engine.overlays.overlay import Overlay
from ffmpeg_ops.operation import Work

Warn = Callable[[str], object]

_AT_ONCE_PIXELS = 50_000_000  # of all frames that are put together at a time


@dataclass(frozen=True)
class Plan:
    """All that is seen in a film."""

    #: Size and rate of the film.
    target: Target
    #: Its scenes, in their order.
    scenes: Sequence[Scene]
    #: What lies on them, and on the film.
    overlays: Overlays


@dataclass(frozen=True)
class _Picture:
    """One frame of one scene."""

    frame: Frame
    layers: Sequence[Layer]

    def drawn(self) -> Frame:
        return _with(self.frame, self.layers)


@dataclass(frozen=True)
class _Moment:
    """What one frame of the film is made of."""

    #: The scene that is seen, or that comes in.
    new: _Picture
    #: The scene before it, while a transition shows both.
    old: _Picture | None = None
    #: The transition, None where there is none.
    transition: str | None = None
    #: How much of the transition is over, from 0 to 1.
    share: float = 1.0

    def drawn(self) -> Frame:
        new = self.new.drawn()
        if self.transition is None:
            return new
        return transitions.between(self.transition, self.old.drawn() if self.old else None, new, self.share)


def render(plan: Plan, work: Work, warn: Warn) -> Iterator[bytes]:
    """Yield the raw I420 frames of the film. Raises what a scene's source raises."""
    workers = max(1, min(len(os.sched_getaffinity(0)), _AT_ONCE_PIXELS // (plan.target.size[0] * plan.target.size[1])))
    with ExitStack() as opened, ThreadPoolExecutor(workers) as pool, closing(_moments(plan, work, warn)) as moments:
        overlays = [placed.opened(plan.target, work, opened) for placed in plan.overlays.of_film]
        ahead: deque[Future[bytes]] = deque()
        for number, moment in enumerate(moments):
            ahead.append(pool.submit(_finished, moment, _layers(overlays, number)))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        yield from (future.result() for future in ahead)


def _finished(moment: _Moment, layers: Sequence[Layer]) -> bytes:
    return _with(moment.drawn(), layers).tobytes()


def _with(frame: Frame, layers: Sequence[Layer]) -> Frame:
    """`frame`, or a copy of it with `layers`."""
    if not layers:
        return frame
    frame = frame.copy()
    for layer in layers:
        blend(frame, layer)
    return frame


def _layers(overlays: Iterable[Overlay], number: int) -> list[Layer]:
    return [layer for overlay in overlays if (layer := overlay.layer_at(number)) is not None]


class _Source:
    """The pictures of one scene, opened before they are needed."""

    def __init__(self, scene: Scene, overlays: Sequence[Placed], plan: Plan, work: Work, warn: Warn) -> None:
        self.scene = scene
        self._opened = ExitStack()
        self._overlays = [placed.opened(plan.target, work, self._opened) for placed in overlays]
        self._frames = self._opened.enter_context(closing(scenes.draw(scene, plan.target, work, warn)))
        self._number = 0

    def open(self) -> None:
        """Wait until the source can be drawn. Raises what it raises."""
        next(self._frames)

    def picture(self) -> _Picture:
        """The next one."""
        frame = next(self._frames)
        assert frame is not None
        layers = _layers(self._overlays, self._number)
        self._number += 1
        return _Picture(frame, layers)

    def close(self) -> None:
        """Free all that it holds."""
        self._opened.close()


def _moments(plan: Plan, work: Work, warn: Warn) -> Generator[_Moment]:
    sources = [_Source(*each, plan, work, warn) for each in zip(plan.scenes, plan.overlays.of_scenes, strict=True)]
    with ExitStack() as opened, ThreadPoolExecutor(1) as opener:

        def opening(number: int) -> Future[None] | None:
            if number == len(sources):
                return None
            opened.callback(sources[number].close)
            return opener.submit(contextvars.copy_context().run, sources[number].open)

        before, ahead = None, opening(0)
        for number, source in enumerate(sources, 1):
            assert ahead is not None
            ahead.result()
            ahead = opening(number)
            yield from _of_scene(source, before)
            before = source


def _of_scene(source: _Source, before: _Source | None) -> Generator[_Moment]:
    span = source.scene.span
    for number in range(span.transition):
        share = (number + 0.5) / span.transition
        old = before.picture() if before else None
        yield _Moment(source.picture(), old, source.scene.params["transition"]["type"], share)
    if before is not None:
        before.close()
    for _ in range(span.frames - span.transition):
        yield _Moment(source.picture())
