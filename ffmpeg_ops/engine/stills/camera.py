"""The camera's position in every frame: boxes over the image, in fractional pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

_EASE: Mapping[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "ease_in": lambda t: t * t,
    "ease_out": lambda t: 1 - (1 - t) ** 2,
    "ease_in_out": lambda t: t * t * (3 - 2 * t),
}
# Where a pan begins and ends, as shares of the free distance: x, y, x, y. None: the focus.
_PANS: Mapping[str, tuple[float | None, float | None, float | None, float | None]] = {
    "pan_right": (0, None, 1, None),
    "pan_left": (1, None, 0, None),
    "pan_down": (None, 0, None, 1),
    "pan_up": (None, 1, None, 0),
}


# How many source pixels each pixel of a frame should have: fewer lose detail, more alias under a cubic kernel.
FINEST = 1.06


@dataclass(frozen=True)
class Box:
    """The part of the image that a frame shows, in pixels of the image, measured to pixel edges."""

    #: Left edge.
    left: float
    #: Top edge.
    top: float
    #: Width.
    width: float
    #: Height.
    height: float

    def scaled(self, x: float, y: float) -> Box:
        """The same part of an image that is `x` times as wide and `y` times as high."""
        return Box(self.left * x, self.top * y, self.width * x, self.height * y)

    def step(self, frame: tuple[int, int]) -> float:
        """Source pixels for each pixel of a frame."""
        return min(self.width / frame[0], self.height / frame[1])


@dataclass(frozen=True)
class Move:
    """How the camera moves."""

    #: One of img2vid's MOTIONS.
    motion: str = "zoom_in"
    #: The largest magnification; a pan keeps it all the time.
    amount: float = 1.324
    #: The point that the camera zooms in on or that stays in view, as shares of width and height.
    focus: tuple[float, float] = (0.5, 0.5)
    #: One of img2vid's EASINGS.
    easing: str = "linear"

    def boxes(self, image: tuple[int, int], frame: tuple[int, int], count: int) -> list[Box]:
        """`count` boxes of the frame's shape inside an image of the given size, from the first frame to the last."""
        ease = _EASE[self.easing]
        return [self._box(image, frame, ease(i / (count - 1)) if count > 1 else 0.0) for i in range(count)]

    def _box(self, image: tuple[int, int], frame: tuple[int, int], t: float) -> Box:
        # the largest box of the frame's shape, divided by the zoom
        scale = min(image[0] / frame[0], image[1] / frame[1]) / self._zoom(t)
        width, height = frame[0] * scale, frame[1] * scale
        x, y = self._place(t)
        return Box((image[0] - width) * x, (image[1] - height) * y, width, height)

    def _zoom(self, t: float) -> float:
        if self.motion == "none":
            return 1.0
        if self.motion in _PANS:
            return self.amount
        return 1 + (self.amount - 1) * (1 - t if self.motion == "zoom_out" else t)

    def _place(self, t: float) -> tuple[float, float]:
        """Where the box is, as shares of its free distance in x and y."""
        x0, y0, x1, y1 = _PANS.get(self.motion, (None, None, None, None))
        x = self.focus[0] if x0 is None or x1 is None else x0 + (x1 - x0) * t
        y = self.focus[1] if y0 is None or y1 is None else y0 + (y1 - y0) * t
        return x, y


def finest(boxes: list[Box], frame: tuple[int, int]) -> float:
    """Source pixels for each pixel of the most magnified frame."""
    return min(box.step(frame) for box in boxes)
