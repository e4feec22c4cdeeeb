"""Frames with overlays, for tests that look at pixels."""

from __future__ import annotations

from typing import Any

from ffmpeg_ops.engine.i420 import Frame, Layer, blank, blend
from ffmpeg_ops.engine.overlays.params import OverlayParams

BLUE = "#2060A0"


def params(**given: Any) -> dict[str, Any]:
    """Loaded params of an overlay."""
    loaded: dict[str, Any] = OverlayParams().load(given)
    return loaded


def over(layer: Layer | None, size: tuple[int, int], color: str = BLUE) -> Frame:
    """A frame of one colour with a layer over it."""
    frame = blank(size, color)
    if layer is not None:
        blend(frame, layer)
    return frame
