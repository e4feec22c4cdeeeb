"""Renders a shot to raw frames: planes are made once, then every frame is cut from them at sub-pixel positions.

Planes are Y, Cb and Cr of BT.709 in limited range. A frame is yuv420p with MPEG-2 and H.264's default chroma siting:
horizontally on the even luma columns, vertically between two rows.

OpenCV's `resize` is five times as fast as its `warpAffine` with the same cubic kernel, because it processes rows and
columns separately, but it takes whole pixels only. Its sampling points are `start + (i + 0.5) · n / m − 0.5` for n
source pixels resized to m. By making a few more pixels than are shown, and choosing n, m and the number of pixels to
skip, the error is kept within a hundredth of a pixel. Where that is impossible, `warpAffine` is used.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffmpeg_ops.engine.i420 import TO_YCBCR, Plane
from ffmpeg_ops.engine.stills.camera import FINEST, Box

# A zoom runs through several sources, each made from the one before with Lanczos, at most _LEVEL times smaller.
_LEVEL = 1.16
# Maximum number of pixels made besides those shown, and maximum error of a sample, in source pixels.
_SLACK = 128
_TOLERANCE = 0.015
_LEFT_SITED = -0.25
_AT_ONCE_PIXELS = 100_000_000  # of all frames that are rendered at a time: 12 of 4K


@dataclass(frozen=True)
class Span:
    """One axis of a `resize`."""

    #: The first source pixel.
    start: int
    #: How many source pixels are resized.
    taken: int
    #: How many pixels they become.
    made: int
    #: How many of those come before the first one shown.
    skip: int
    #: How far the sampling points are off, in source pixels.
    error: float


def render(pixels: Plane, boxes: list[Box], frame: tuple[int, int]) -> Iterator[bytes]:
    """Yield one raw yuv420p frame of `frame` pixels (even numbers) per box, rendered on all cores, in order.

    `pixels` is the image as RGB: rows, columns, channels.
    """
    cv2.setNumThreads(1)  # whole frames in parallel scale better than parts of one
    workers = max(1, min(len(os.sched_getaffinity(0)), _AT_ONCE_PIXELS // (frame[0] * frame[1])))
    with ThreadPoolExecutor(workers) as pool:
        camera = _Camera(pixels, boxes, frame)
        ahead: deque[Future[bytes]] = deque()
        for box in boxes:
            ahead.append(pool.submit(camera.frame, box))
            if len(ahead) > workers + 1:
                yield ahead.popleft().result()
        yield from (future.result() for future in ahead)


class _Camera:
    """Renders frames, each from the most suitable source; safe to share between threads."""

    def __init__(self, pixels: Plane, boxes: list[Box], frame: tuple[int, int]) -> None:
        self._size = frame
        self._half = (frame[0] // 2, frame[1] // 2)
        y, cb, cr = planes_of(pixels)
        steps = [box.step(frame) for box in boxes]
        margin = math.ceil(_SLACK * max(steps)) + 8
        self._lumas = [_Source([plane], margin) for plane in _levels(y, min(steps), max(steps))]
        height, width, _ = pixels.shape
        half = (math.ceil(width / 2), math.ceil(height / 2))
        self._chroma = _Source([cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in (cb, cr)], margin)
        self._image_size = (width, height)

    def frame(self, box: Box) -> bytes:
        """The raw frame that shows `box`."""
        planes = [*self._cut(self._luma(box), box, self._size, 0.0)]
        planes += self._cut(self._chroma, box, self._half, _LEFT_SITED)
        return b"".join(plane.tobytes() for plane in planes)

    def _luma(self, box: Box) -> _Source:
        """The smallest source with at least FINEST pixels for each pixel of the frame; if none, the largest."""
        for source in reversed(self._lumas):
            if box.step(self._size) * source.size[0] / self._image_size[0] >= FINEST * 0.999:
                return source
        return self._lumas[0]

    def _cut(self, source: _Source, box: Box, size: tuple[int, int], siting: float) -> list[Plane]:
        scale = (source.size[0] / self._image_size[0], source.size[1] / self._image_size[1])
        return source.cut(box.scaled(*scale), size, siting)


def _levels(plane: Plane, finest_step: float, coarsest_step: float) -> list[Plane]:
    """`plane`, and smaller ones for frames that show so much of it that it would alias."""
    count = math.ceil(math.log(max(1.0, coarsest_step / max(finest_step, FINEST)), _LEVEL))
    planes, width, height = [plane], plane.shape[1], plane.shape[0]
    for i in range(1, count):
        smaller = (coarsest_step / max(finest_step, FINEST)) ** (i / count) * max(finest_step, FINEST) / FINEST
        size = (math.ceil(width / smaller), math.ceil(height / smaller))
        planes.append(np.asarray(Image.fromarray(planes[-1]).resize(size, Image.Resampling.LANCZOS)))
    return planes


class _Source:
    """Planes of one size, with a margin of repeated edge pixels around them."""

    def __init__(self, planes: list[Plane], margin: int) -> None:
        self.size = (planes[0].shape[1], planes[0].shape[0])
        self._margin = margin
        border = (margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        self._planes = [cv2.copyMakeBorder(plane, *border) for plane in planes]

    def cut(self, box: Box, size: tuple[int, int], siting: float) -> list[Plane]:
        """`box`, in pixels of these planes, resampled to `size`. `siting` shifts all samples, in samples."""
        x = span(self._margin + box.left, box.width, size[0], siting)
        y = span(self._margin + box.top, box.height, size[1], 0.0)
        rows, columns = self._planes[0].shape
        inside = 0 <= x.start <= columns - x.taken and 0 <= y.start <= rows - y.taken
        if not inside or max(x.error, y.error) > _TOLERANCE * (1 if siting == 0 else 3):
            return [self._warped(plane, box, size, siting) for plane in self._planes]
        return [_resized(plane, x, y, size) for plane in self._planes]

    def _warped(self, plane: Plane, box: Box, size: tuple[int, int], siting: float) -> Plane:
        step_x, step_y = box.width / size[0], box.height / size[1]
        matrix = np.array(
            [
                [step_x, 0, self._margin + box.left + (0.5 + siting) * step_x - 0.5],
                [0, step_y, self._margin + box.top + 0.5 * step_y - 0.5],
            ]
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(plane, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def span(low: float, width: float, size: int, siting: float) -> Span:
    """The `resize` whose `size` shown samples are closest to dividing [low, low + width] evenly."""
    step = width / size
    made, skip = _choices(size)
    taken = np.rint(step * made)
    ratio = taken / made
    first, last = low + (0.5 + siting) * step - 0.5, low + (size - 0.5 + siting) * step - 0.5
    offset = (skip + 0.5) * ratio - 0.5
    start = np.rint(first - offset)
    at_first = np.abs(start + offset - first)
    at_last = np.abs(start + offset + (size - 1) * ratio - last)
    error = np.maximum(at_first, at_last)
    good = error < _TOLERANCE
    best = int(good.argmax() if good.any() else error.argmin())
    return Span(int(start[best]), int(taken[best]), int(made[best]), int(skip[best]), float(error[best]))


@cache
def _choices(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every (made, skip) with at most _SLACK pixels more than shown, the fewest first."""
    pairs = [(size + more, skip) for more in range(_SLACK + 1) for skip in range(more + 1)]
    made, skip = zip(*pairs, strict=True)
    return np.array(made, float), np.array(skip, float)


def _resized(plane: Plane, x: Span, y: Span, size: tuple[int, int]) -> Plane:
    part = plane[y.start : y.start + y.taken, x.start : x.start + x.taken]
    made = cv2.resize(part, (x.made, y.made), interpolation=cv2.INTER_CUBIC)
    return made[y.skip : y.skip + size[1], x.skip : x.skip + size[0]]


def planes_of(pixels: Plane) -> list[Plane]:
    """Y, Cb and Cr of an RGB image."""
    ycbcr = cv2.transform(pixels, TO_YCBCR)
    return [np.ascontiguousarray(ycbcr[:, :, i]) for i in range(3)]
