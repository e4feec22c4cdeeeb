"""Raw frames as films are made of them, and layers that are blended into them.

A frame is I420 in one contiguous array of `height * 3 // 2` rows and `width` columns of bytes, both sides even: Y, Cb
and Cr of BT.709 in limited range, chroma at half the size. Chroma samples lie on the even columns of luma (left
siting), and vertically between two rows.

A layer keeps its colours and its alpha apart, so that where alpha is 0 the frame's bytes stay as they are, and where it
is 255 the layer's come out unchanged. OpenCV and NumPy release the GIL for the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Plane = NDArray[Any]  # of uint8; OpenCV's stubs are not precise

# R'G'B' of 0..255 to Y'CbCr of BT.709 in limited range; the last column is the offset.
_KR, _KB = 0.2126, 0.0722
_KG = 1 - _KR - _KB
TO_YCBCR = np.array(
    [
        [_KR * 219 / 255, _KG * 219 / 255, _KB * 219 / 255, 16],
        [-_KR / (1 - _KB) / 2 * 224 / 255, -_KG / (1 - _KB) / 2 * 224 / 255, 0.5 * 224 / 255, 128],
        [0.5 * 224 / 255, -_KG / (1 - _KR) / 2 * 224 / 255, -_KB / (1 - _KR) / 2 * 224 / 255, 128],
    ]
)
_BLOCK = 1 << 16  # pixels that are blended at a time, so that what lies between stays in the processor's cache
_ROWS = 64  # of a layer that are halved at a time; even
_SAMPLES = 8  # weights of the pixels that become one sample of chroma: 1, 2 and 1 in each of two rows


@dataclass(frozen=True)
class Layer:
    """Pixels for a rectangle that lies inside the frame. Its arrays may be shared; nothing writes into them."""

    #: Left edge in the frame, an even number.
    x: int
    #: Top edge in the frame, an even number.
    y: int
    #: Y, Cb and Cr, not multiplied by alpha, of an even width and height.
    colors: tuple[Plane, Plane, Plane]
    #: Alpha of Y, and that of Cb and Cr at their size. None: opaque.
    alphas: tuple[Plane, Plane] | None = None
    #: Share of all alpha, from 0 to 1.
    opacity: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the frame."""
        height, width = self.colors[0].shape
        return width, height


def planes(frame: Frame) -> tuple[Plane, Plane, Plane]:
    """Y, Cb and Cr of a frame, as views: what is written into them is written into the frame."""
    rows, width = frame.shape
    height = rows * 2 // 3
    flat, luma, chroma = frame.reshape(-1), width * height, width * height // 4
    cb, cr = flat[luma : luma + chroma], flat[luma + chroma :]
    return frame[:height], cb.reshape(height // 2, width // 2), cr.reshape(height // 2, width // 2)


def blank(size: tuple[int, int], color: str = "#000000") -> Frame:
    """A new frame of one colour, #RRGGBB."""
    width, height = size
    frame = np.empty((height * 3 // 2, width), np.uint8)
    rgb = np.array([[tuple(bytes.fromhex(color.removeprefix("#")))]], np.uint8)
    for plane, value in zip(planes(frame), cv2.transform(rgb, TO_YCBCR)[0, 0], strict=True):
        plane[:] = value
    return frame


def blend(frame: Frame, layer: Layer) -> None:
    """Lay `layer` over the frame, which must not be shared with anything that still needs it as it is."""
    if layer.opacity <= 0:
        return
    halves = (1, 2, 2)
    for i, (plane, half, color) in enumerate(zip(planes(frame), halves, layer.colors, strict=True)):
        rows, columns = color.shape
        under = plane[layer.y // half : layer.y // half + rows, layer.x // half : layer.x // half + columns]
        if layer.alphas is not None:
            _mix(under, color, _faded(layer.alphas[min(i, 1)], layer.opacity))
        elif layer.opacity < 1:
            under[:] = cv2.addWeighted(color, layer.opacity, under, 1 - layer.opacity, 0)
        else:
            under[:] = color


def layer_of_frame(frame: Frame, x: int, y: int) -> Layer:
    """An opaque layer of a smaller frame, which it shares, at even `x` and `y`."""
    return Layer(x, y, planes(frame))


def layer_of_rgba(rgba: Plane, x: int, y: int, frame: tuple[int, int]) -> Layer | None:
    """The part of a picture at `x` and `y`, which may be negative or odd, that lies in a frame of that size.

    `rgba` has rows, columns and four channels, and its colours are not multiplied by alpha. None where nothing of it
    is seen.
    """
    width, height = frame
    left, top = max(0, -x), max(0, -y)
    rgba = rgba[top : max(top, height - y), left : max(left, width - x)]
    seen = rgba[:, :, 3] > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not rows.size:
        return None
    rgba = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _layer(rgba, x + left + int(columns[0]), y + top + int(rows[0]), width)


def _layer(rgba: Plane, x: int, y: int, width: int) -> Layer:
    rows, columns, _ = rgba.shape
    left, top, bottom = x - x % 2, y - y % 2, y + rows + (y + rows) % 2
    right = min(width, (x + columns) // 2 * 2 + 2)  # the chroma sample next to the last column takes a quarter of it
    color = np.zeros((3, bottom - top, right - left), np.uint8)
    alpha = np.zeros((bottom - top, 1 + right - left), np.uint8)  # one more on the left, for the first chroma sample
    inside = (slice(y - top, y - top + rows), slice(x - left, x - left + columns))
    for plane, values in zip(color, cv2.split(cv2.transform(rgba[:, :, :3], TO_YCBCR)), strict=True):
        plane[inside] = values
    alpha[inside[0], inside[1].start + 1 : inside[1].stop + 1] = rgba[:, :, 3]
    if x == 0:
        alpha[:, 0] = alpha[:, 1]  # outside the frame there is no edge
    weights = _halved(alpha)
    weight = np.maximum(weights, 1)
    padded = (np.pad(plane, ((0, 0), (1, 0)), "edge") for plane in color[1:])
    cb, cr = (np.rint(_halved(plane, alpha) / weight).astype(np.uint8) for plane in padded)
    chroma_alpha = np.rint(weights / _SAMPLES).astype(np.uint8)
    return Layer(left, top, (color[0], cb, cr), (np.ascontiguousarray(alpha[:, 1:]), chroma_alpha))


def _halved(*factors: Plane) -> Plane:
    """The product of `factors` at half the size, left-sited, as a sum of _SAMPLES. They have one column more than that.

    In blocks of rows, because the sums are four times as large.
    """
    rows, columns = factors[0].shape
    found = np.empty((rows // 2, columns // 2), np.float32)
    for top in range(0, rows, _ROWS):
        values = factors[0][top : top + _ROWS].astype(np.uint16)
        for factor in factors[1:]:
            values *= factor[top : top + _ROWS]
        pairs = values[0::2].astype(np.float32) + values[1::2]
        found[top // 2 : top // 2 + len(pairs)] = pairs[:, 0:-2:2] + 2 * pairs[:, 1:-1:2] + pairs[:, 2::2]
    return found


def _faded(alpha: Plane, opacity: float) -> Plane:
    if opacity >= 1:
        return alpha
    return cv2.LUT(alpha, np.rint(np.arange(256) * opacity).astype(np.uint8))


def _mix(under: Plane, over: Plane, alpha: Plane) -> None:
    """`under` becomes `(over · alpha + under · (255 - alpha)) / 255`, rounded."""
    rows = max(1, _BLOCK // under.shape[1])
    for top in range(0, under.shape[0], rows):
        part = slice(top, top + rows)
        share = alpha[part].astype(np.uint16)
        mixed = over[part] * share
        np.subtract(255, share, out=share)
        share *= under[part]
        mixed += share
        mixed += 127
        # the whole part of a division by 255: exact up to 65534
        np.right_shift(mixed, 8, out=share)
        mixed += share
        mixed += 1
        mixed >>= 8
        under[part] = mixed
