"""How one scene's frame becomes the next one's. A frame is I420, as everywhere in the film."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.engine.i420 import planes

Frame = NDArray[Any]  # of uint8; OpenCV's stubs are not precise

BLACK_Y, BLACK_C = 16, 128


def faded(frame: Frame, light: float) -> Frame:
    """`frame` with that share of its light: 1 leaves it as it is, 0 is black."""
    dimmed = np.empty_like(frame)
    for source, target, black in zip(planes(frame), planes(dimmed), (BLACK_Y, BLACK_C, BLACK_C), strict=True):
        cv2.convertScaleAbs(source, dst=target, alpha=light, beta=black * (1 - light))
    return dimmed


def between(kind: str, old: Frame | None, new: Frame, t: float) -> Frame:
    """The frame `t` of the way (0 to 1) from `old` to `new`; without an `old` one, the film begins in black."""
    if old is None:
        return faded(new, t)
    return _KINDS[kind](old, new, t)


def _fade(old: Frame, new: Frame, t: float) -> Frame:
    return faded(old, 1 - 2 * t) if t < 0.5 else faded(new, 2 * t - 1)


def _crossfade(old: Frame, new: Frame, t: float) -> Frame:
    return cv2.addWeighted(old, 1 - t, new, t, 0)


def _slide(right: int, down: int) -> Callable[[Frame, Frame, float], Frame]:
    """Both frames move together, in one of four directions, slowly at first and at the end."""

    def slide(old: Frame, new: Frame, t: float) -> Frame:
        moved = np.empty_like(new)
        share = t * t * (3 - 2 * t)
        rows, columns = (side // 2 for side in planes(new)[0].shape)
        y, x = round(share * rows) * down, round(share * columns) * right
        for i, (was, comes, target) in enumerate(zip(planes(old), planes(new), planes(moved), strict=True)):
            by = 2 if i == 0 else 1  # luma has two samples for each of chroma
            _place(target, was, y * by, x * by)
            _place(target, comes, (y - rows * down) * by, (x - columns * right) * by)
        return moved

    return slide


def _place(target: Frame, plane: Frame, y: int, x: int) -> None:
    """Copy the part of `plane`, moved by `y` and `x`, that is inside `target`."""
    rows, columns = target.shape
    into = target[max(0, y) : max(0, rows + min(0, y)), max(0, x) : max(0, columns + min(0, x))]
    into[:] = plane[max(0, -y) : max(0, rows - max(0, y)), max(0, -x) : max(0, columns - max(0, x))]


def _wipe(old: Frame, new: Frame, t: float) -> Frame:
    wiped = old.copy()
    columns = round(t * planes(new)[1].shape[1])
    for i, (target, comes) in enumerate(zip(planes(wiped), planes(new), strict=True)):
        width = columns * 2 if i == 0 else columns
        target[:, :width] = comes[:, :width]
    return wiped


_KINDS: Mapping[str, Callable[[Frame, Frame, float], Frame]] = {
    "fade": _fade,
    "crossfade": _crossfade,
    "slide_left": _slide(-1, 0),
    "slide_right": _slide(1, 0),
    "slide_up": _slide(0, -1),
    "slide_down": _slide(0, 1),
    "wipe": _wipe,
}
