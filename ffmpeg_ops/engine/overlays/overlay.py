"""Overlays, ready to be laid over the frames of a scene or a film."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate
from typing import Protocol

from ffmpeg_ops.engine.i420 import Frame, Layer, layer_of_frame
from ffmpeg_ops.engine.overlays.placement import Times
from ffmpeg_ops.engine.overlays.store import Kept, LayerStore


class Overlay(Protocol):
    """What lies over the frames of a scene or a film."""

    def layer_at(self, frame: int) -> Layer | None:
        """What lies over a frame, counted from the beginning of the scene or the film; None if nothing does."""


@dataclass(frozen=True)
class Nothing:
    """An overlay without a visible pixel, such as a text of characters that no font has."""

    def layer_at(self, frame: int) -> None:
        return None


@dataclass(frozen=True)
class Still:
    """A text or a picture. Its frames may be asked for in any order, by any thread."""

    #: When it is shown.
    times: Times
    #: Where its layer is.
    store: LayerStore
    #: Its layer.
    kept: Kept

    def layer_at(self, frame: int) -> Layer | None:
        opacity = self.times.opacity_at(frame)
        return replace(self.store.get(self.kept), opacity=opacity) if opacity else None


@dataclass(frozen=True)
class Animation:
    """An animated picture, which begins anew after its end. Its frames may be asked for in any order, by any thread."""

    #: When it is shown.
    times: Times
    #: Frames of the film a second.
    rate: Fraction
    #: Where its layers are.
    store: LayerStore
    #: Its layers; None for a picture without a visible pixel.
    kept: Sequence[Kept | None]
    #: How long each is shown, in milliseconds.
    shown_ms: Sequence[int]
    _ends_ms: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends_ms", list(accumulate(self.shown_ms)))

    def layer_at(self, frame: int) -> Layer | None:
        opacity = self.times.opacity_at(frame)
        now_ms = int((frame - self.times.first) / self.rate * 1000) % self._ends_ms[-1]
        kept = self.kept[bisect_right(self._ends_ms, now_ms)]
        return replace(self.store.get(kept), opacity=opacity) if opacity and kept else None


class Video:
    """A video as a picture in the picture. Its frames must be asked for in order, by one thread at a time."""

    def __init__(self, times: Times, frames: Iterator[Frame], x: int, y: int) -> None:
        """`frames` begin at the first frame that shows it and lie at even `x` and `y`; the last one stays."""
        self._times, self._frames, self._x, self._y = times, frames, x, y
        self._next = times.first
        self._layer: Layer | None = None

    def layer_at(self, frame: int) -> Layer | None:
        opacity = self._times.opacity_at(frame)
        while opacity and self._next <= frame:
            shown = next(self._frames, None)
            if shown is not None:
                self._layer = layer_of_frame(shown, self._x, self._y)
            self._next += 1
        return replace(self._layer, opacity=opacity) if opacity and self._layer else None
