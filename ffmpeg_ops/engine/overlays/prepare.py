"""Draws and reads the texts and pictures of a film, all of them before its first frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine.overlays import pictures, text
from ffmpeg_ops.engine.overlays.overlay import Animation, Nothing, Overlay, Still
from ffmpeg_ops.engine.overlays.placement import Size, Times, times
from ffmpeg_ops.engine.overlays.store import Kept, LayerStore
from ffmpeg_ops.engine.overlays.text import Text
from ffmpeg_ops.operation import Work

Warn = Callable[[str], object]
_OVERRUN_S = 2  # maximum length of a transition, under which a scene plays on
_PLACE = ("position", "x", "y", "margin", "width", "safe_area")


@dataclass(frozen=True)
class Wanted:
    """An overlay that params ask for."""

    #: Its path in the params: `scenes[2].overlays[0]`.
    path: str
    #: Loaded by OverlayParams.
    params: Mapping[str, Any]
    #: How many frames its scene has, or the film.
    frames: int


def prepare(
    wanted: Sequence[Wanted],
    frame: Size,
    rate: Fraction,
    store: LayerStore,
    assets: Mapping[str, Path],
    work: Work,
    warn: Warn,
) -> list[Overlay | None]:
    """Make every text and picture ready for frames of that size; None in the place of a video.

    `assets` maps the path of each asset to its file. Raises InvalidParams for an overlay that is never seen or a text
    without room, AssetInvalid, AssetTooLarge, JobTooLarge past what `store` may hold, and the reason of `work.stop`.
    """
    shown = [times(one.params, one.path, one.frames, rate) for one in wanted]
    made: list[Overlay | None] = [None] * len(wanted)
    texts = [i for i, one in enumerate(wanted) if "text" in one.params]
    layers = text.layers([Text(wanted[i].path, wanted[i].params) for i in texts], frame, assets, work, warn)
    for i, layer in zip(texts, layers, strict=True):
        made[i] = Still(shown[i], store, store.keep(layer)) if layer else Nothing()
    reader = _Pictures(frame, rate, store, assets, work, warn)
    for i, one in enumerate(wanted):
        if "url_image" in one.params:
            made[i] = reader.overlay(one, shown[i])
    return made


@dataclass(frozen=True)
class _Pictures:
    """Reads pictures, and those that do not move once, however many scenes show them in the same place."""

    frame: Size
    rate: Fraction
    store: LayerStore
    assets: Mapping[str, Path]
    work: Work
    warn: Warn
    stills: dict[tuple[object, ...], Kept] = field(default_factory=dict)

    def overlay(self, wanted: Wanted, shown: Times) -> Overlay:
        name = f"{wanted.path}.url_image"
        key = (self.assets[name], *(wanted.params.get(param) for param in _PLACE))
        if key in self.stills:
            return Still(shown, self.store, self.stills[key])
        end = wanted.frames + _OVERRUN_S * self.rate if shown.end is None else shown.end
        seconds = float((end - shown.first) / self.rate)
        found = pictures.layers(self.assets[name], name, wanted.params, self.frame, seconds, self.work, self.warn)
        kept, shown_ms = zip(*((self.store.keep(layer) if layer else None, ms) for layer, ms in found), strict=True)
        if not any(kept):
            self.warn(f"{name}: no pixel of the picture is seen")
            return Nothing()
        if len(kept) > 1:
            return Animation(shown, self.rate, self.store, kept, shown_ms)
        if shown_ms == (0,):
            self.stills[key] = kept[0]
        return Still(shown, self.store, kept[0])
