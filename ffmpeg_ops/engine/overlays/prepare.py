"""Draws and reads the texts and pictures of a film, all of them before its first frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine.overlays import pictures, text
from ffmpeg_ops.engine.overlays.overlay import Animation, Nothing, Overlay, Still
from ffmpeg_ops.engine.overlays.placement import Size, Times, times
from ffmpeg_ops.engine.overlays.store import LayerStore
from ffmpeg_ops.engine.overlays.text import Text
from ffmpeg_ops.operation import Work

Warn = Callable[[str], object]


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
    for i, one in enumerate(wanted):
        if "url_image" in one.params:
            made[i] = _picture(one, shown[i], frame, rate, store, assets, work, warn)
    return made


def _picture(
    wanted: Wanted,
    shown: Times,
    frame: Size,
    rate: Fraction,
    store: LayerStore,
    assets: Mapping[str, Path],
    work: Work,
    warn: Warn,
) -> Overlay:
    name = f"{wanted.path}.url_image"
    seconds = (
        float((wanted.frames - shown.first) / rate) if shown.end is None else float((shown.end - shown.first) / rate)
    )
    found = [
        (store.keep(layer) if layer else None, ms)
        for layer, ms in pictures.layers(assets[name], name, wanted.params, frame, seconds, work, warn)
    ]
    kept, shown_ms = zip(*found, strict=True)
    if not any(kept):
        warn(f"{name}: no pixel of the picture is seen")
        return Nothing()
    if len(kept) == 1:
        return Still(shown, store, kept[0])
    return Animation(shown, rate, store, kept, shown_ms)
