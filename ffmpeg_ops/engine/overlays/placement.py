"""Where an overlay is in the frame, and when it is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ffmpeg_ops.engine.subtitles.style import POSITIONS
from wire.errors import InvalidParams

PICTURE_WIDTH, VIDEO_WIDTH = 0.3, 0.35  # shares of the frame's width, where none is given
# What stays clear of the buttons and texts of TikTok, Reels and Shorts, as shares of the width or height.
_SAFE_LEFT, _SAFE_TOP, _SAFE_RIGHT, _SAFE_BOTTOM = 0.06, 0.12, 0.13, 0.2
_TALL = 1.5  # height for each pixel of width; their players show less tall videos above their buttons

_EXACT = 1e-6  # of a pixel

Size = tuple[int, int]


@dataclass(frozen=True)
class Area:
    """The part of the frame that overlays keep to, in pixels to its edges."""

    #: Left edge.
    left: float
    #: Top edge.
    top: float
    #: Right edge.
    right: float
    #: Bottom edge.
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


@dataclass(frozen=True)
class Place:
    """The point of the frame that an overlay is tied to, and the point of the overlay that lies there."""

    #: The point of the frame, in pixels from the left edge.
    x: float
    #: The same from the top edge.
    y: float
    #: Which column of the overlay lies there: its left edge (0), its middle (1) or its right edge (2).
    column: int
    #: Which row: its top edge (0), its middle (1) or its bottom edge (2).
    row: int

    def corner(self, size: Size) -> tuple[int, int]:
        """The top left corner of an overlay of that size, in whole pixels."""
        x, y = self.x - size[0] * self.column / 2, self.y - size[1] * self.row / 2
        return math.floor(x + 0.5), math.floor(y + 0.5)

    @property
    def alignment(self) -> int:
        """The point of the overlay as a number of the keypad: 1 is bottom left, 9 top right."""
        return 3 * (2 - self.row) + self.column + 1


@dataclass(frozen=True)
class Times:
    """When an overlay is shown."""

    #: The first frame of it, counted from the beginning of its scene or the film.
    first: int
    #: The frame after its last one; None: it stays.
    end: int | None
    #: Frames that it takes to appear, and to disappear.
    fade: int
    #: Its opacity when it has appeared.
    opacity: float

    def opacity_at(self, frame: int) -> float:
        """Its opacity in a frame; 0 where it is not shown."""
        left = math.inf if self.end is None else self.end - frame
        if frame < self.first or left <= 0:
            return 0.0
        if not self.fade:
            return self.opacity
        return self.opacity * min(1.0, (frame - self.first + 0.5) / self.fade, (left - 0.5) / self.fade)


def times(params: Mapping[str, Any], path: str, frames: int, rate: Fraction) -> Times:
    """When the overlay `path` of a scene or film of so many frames is shown.

    What stays until the end is shown under the next scene's transition too, unless it has faded out by then. Raises
    InvalidParams where it would never be seen.
    """
    first = _frame(params["start"], rate)
    end = _frame(params["end"], rate) if "end" in params else frames
    fade = _frame(params["fade"], rate)
    if first >= frames:
        length = f"{float(frames / rate):.3f}".rstrip("0").rstrip(".")
        raise InvalidParams(f"{path}.start: {params['start']:g} s is not before the end, which is at {length} s.")
    stays = end >= frames and not fade
    return Times(first, None if stays else min(max(end, first + 1), frames), fade, params["opacity"])


def area(params: Mapping[str, Any], frame: Size) -> Area:
    """The part of the frame that an overlay keeps to: within its margin and, if asked for, the safe area."""
    width, height = frame
    margin = round(params["margin"] * min(frame))
    if not _is_safe(params, frame):
        return Area(margin, margin, width - margin, height - margin)
    return Area(
        max(margin, round(_SAFE_LEFT * width)),
        max(margin, round(_SAFE_TOP * height)),
        width - max(margin, round(_SAFE_RIGHT * width)),
        height - max(margin, round(_SAFE_BOTTOM * height)),
    )


def place(params: Mapping[str, Any], frame: Size, size: Size = (0, 0)) -> Place:
    """Where an overlay of that size is tied to the frame. What its area has no room for is centred in the frame."""
    within = area(params, frame)
    number = POSITIONS[params["position"]] - 1
    x, column = _along(number % 3, within.left, within.right, size[0], frame[0])
    y, row = _along(2 - number // 3, within.top, within.bottom, size[1], frame[1])
    safe = _is_safe(params, frame)
    if "x" in params:
        middle, column = params["x"] * frame[0], 1
        x = within_limits(middle, size[0], within.left, within.right) if safe else middle
    if "y" in params:
        middle, row = params["y"] * frame[1], 1
        y = within_limits(middle, size[1], within.top, within.bottom) if safe else middle
    return Place(x, y, column, row)


def within_limits(middle: float, size: float, low: float, high: float) -> float:
    """`middle`, moved so that what has that size lies between `low` and `high`, or in their middle if it is larger."""
    if size > high - low:
        return (low + high) / 2
    return min(max(middle, low + size / 2), high - size / 2)


def picture_box(params: Mapping[str, Any], frame: Size, default: float = PICTURE_WIDTH) -> Size:
    """The maximum width and height of a picture or video: by its width, and by the frame or the safe area."""
    within = area(params, frame) if _is_safe(params, frame) else Area(0, 0, *frame)
    width = min(params.get("width", default) * frame[0], within.width)
    return max(1, round(width)), max(1, round(within.height))


def fitted(shape: Size, box: Size) -> Size:
    """The largest size of the given shape within a box."""
    scale = min(box[0] / shape[0], box[1] / shape[1])
    width = max(1, round(shape[0] * scale))
    return width, min(box[1], math.ceil(shape[1] * width / shape[0] - _EXACT))


def video_box(params: Mapping[str, Any], shape: Size, frame: Size) -> tuple[int, int, int, int]:
    """The left and top edge, width and height, all even, of a video of the given shape in square pixels."""
    width, height = (max(2, side - side % 2) for side in fitted(shape, picture_box(params, frame, VIDEO_WIDTH)))
    x, y = place(params, frame, (width, height)).corner((width, height))
    # The corner of what would reach past the frame is moved into it: the layer of a video is not cut.
    x, y = min(max(0, x), frame[0] - width), min(max(0, y), frame[1] - height)
    return x - x % 2, y - y % 2, width, height


def _is_safe(params: Mapping[str, Any], frame: Size) -> bool:
    return bool(params["safe_area"]) and frame[1] >= _TALL * frame[0]


def _frame(seconds: float, rate: Fraction) -> int:
    return math.floor(Fraction(str(seconds)) * rate + Fraction(1, 2))


def _along(third: int, low: float, high: float, size: int, whole: int) -> tuple[float, int]:
    if size > high - low:
        return whole / 2, 1
    return (low, (low + high) / 2, high)[third], third
