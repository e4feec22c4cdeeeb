"""Pictures and animations that are laid over a film, read in confined children."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.engine import confined
from ffmpeg_ops.engine.i420 import Layer, layer_of_rgba
from ffmpeg_ops.engine.overlays import picture_reading
from ffmpeg_ops.engine.overlays.placement import Size, picture_box, place
from ffmpeg_ops.engine.stills.shot import MEMORY_BYTES, TIMEOUT_S
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, JobTimeout

_MAX_SIDE = 10_000
_MAX_MS = 3_600_000

Rgba = NDArray[np.uint8]  # frames, rows, columns, four channels
Warn = Callable[[str], object]


def layers(
    path: Path, name: str, params: Mapping[str, Any], frame: Size, seconds: float, work: Work, warn: Warn
) -> Iterator[tuple[Layer | None, int]]:
    """The layers of the picture of param `name`, and how many milliseconds each is shown; one of 0 ms for a still.

    Of an animation, those of the first `seconds` seconds. None: no pixel of it is seen. Raises the reason of
    `work.stop`, AssetInvalid and AssetTooLarge.
    """
    first, left_ms = 0, max(1, round(seconds * 1000))
    box = picture_box(params, frame)
    following: int | None = 0
    while following is not None and left_ms > 0:
        pictures, shown_ms, following = _read(path, name, box, first, left_ms, work, warn)
        size = (pictures.shape[2], pictures.shape[1])
        x, y = place(params, frame, size).corner(size)
        for rgba, ms in zip(pictures, shown_ms, strict=True):
            work.stop.check()
            yield layer_of_rgba(rgba, x, y, frame), ms
        first, left_ms = following or 0, left_ms - sum(shown_ms)


def _read(
    path: Path, name: str, box: Size, first: int, wanted_ms: int, work: Work, warn: Warn
) -> tuple[Rgba, list[int], int | None]:
    """Pictures from number `first`, how long each is shown, and the number of the next one."""
    arguments = {"path": str(path.absolute()), "name": name, "box": box, "first": first, "wanted_ms": wanted_ms}
    try:
        result = confined.run(
            picture_reading.read,
            arguments,
            work,
            readable=[path],
            timeout_s=min(TIMEOUT_S, work.limits.timeout_s),
            memory_bytes=MEMORY_BYTES,
            data_bytes=picture_reading.MAX_CALL_BYTES,
        )
        width, height = _numbers(result.facts.get("size"), 1, _MAX_SIDE)
        shown_ms = _numbers(result.facts.get("shown_ms"), 0, _MAX_MS)
        if not shown_ms and first == 0:
            raise ValueError("no picture")
        pictures = np.frombuffer(result.data, np.uint8).reshape(len(shown_ms), height, width, 4)
        following = result.facts.get("next")
        if following is not None and (type(following) is not int or following <= first):
            raise ValueError("the next frame is none")
        warnings = result.warnings()
    except JobTimeout as error:
        work.stop.check()
        raise AssetInvalid(f"{name}: the image takes too long to decode.") from error
    except (confined.Crashed, ValueError) as error:
        raise AssetInvalid(f"{name}: the image is damaged.", detail=repr(error)) from error
    for warning in warnings:
        warn(warning)
    return pictures, shown_ms, following


def _numbers(fact: Any, low: int, high: int) -> list[int]:
    if not isinstance(fact, list) or not all(type(number) is int for number in fact):
        raise ValueError("not a list of numbers")
    if not all(low <= number <= high for number in fact):
        raise ValueError("a number is out of bounds")
    return fact
