"""The image of a shot, read in a confined child, and the camera's way over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.engine import confined
from ffmpeg_ops.engine.stills import reading
from ffmpeg_ops.engine.stills.camera import Box, Move
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, JobTimeout

# With the worker it stays below 1.5 GB. Whatever takes longer was made to.
MEMORY_BYTES = 1_300_000_000
TIMEOUT_S = 120
_MAX_SIDE = 1_000_000
_MAX_DATA_BYTES = 600_000_000


@dataclass(frozen=True)
class Shot:
    """What `frames.render` needs."""

    #: The image as RGB: rows, columns, channels.
    pixels: NDArray[np.uint8]
    #: The part of it that each frame shows.
    boxes: list[Box]
    #: What is wrong with the file, in plain words.
    warnings: tuple[str, ...]


def load(
    work: Work,
    path: Path,
    name: str,
    move: Move,
    frame: tuple[int, int],
    count: int,
    fit: str = "cover",
    background: str = "blur",
) -> Shot:
    """Load the image of param `name` for `count` frames of `frame` pixels.

    Raises the reason of `work.stop`, and like `image.load`.
    """
    arguments = {
        "path": str(path.absolute()),
        "name": name,
        "move": asdict(move),
        "frame": frame,
        "count": count,
        "fit": fit,
        "background": background,
    }
    try:
        result = confined.run(
            reading.read,
            arguments,
            work,
            readable=[path],
            timeout_s=min(TIMEOUT_S, work.limits.timeout_s),
            memory_bytes=MEMORY_BYTES,
            data_bytes=_MAX_DATA_BYTES,
        )
        whole, size = (_size(result.facts.get(fact)) for fact in ("whole", "size"))
        pixels = np.frombuffer(result.data, np.uint8).reshape(size[1], size[0], 3)
        warnings = result.warnings()
    except JobTimeout as error:
        work.stop.check()
        raise AssetInvalid(f"{name}: the image takes too long to decode.") from error
    except (confined.Crashed, ValueError) as error:
        raise AssetInvalid(f"{name}: the image is damaged.", detail=repr(error)) from error
    if fit == "contain":
        return Shot(pixels, move.boxes(size, frame, count), warnings)
    scale = (size[0] / whole[0], size[1] / whole[1])
    return Shot(pixels, [box.scaled(*scale) for box in move.boxes(whole, frame, count)], warnings)


def check(work: Work, images: Mapping[str, Path]) -> None:
    """Check the headers of images, param → file, long before they are loaded.

    Raises AssetInvalid for a file that is no image, AssetTooLarge, and the reason of `work.stop`.
    """
    if not images:
        return
    try:
        confined.run(
            reading.check,
            {"paths": {name: str(path.absolute()) for name, path in images.items()}},
            work,
            readable=images.values(),
            timeout_s=min(TIMEOUT_S, work.limits.timeout_s),
            memory_bytes=MEMORY_BYTES,
            data_bytes=0,
        )
    except (JobTimeout, confined.Crashed) as error:
        work.stop.check()
        raise AssetInvalid(f"{next(iter(images))}: the image, or one after it, cannot be read.") from error


def _size(fact: Any) -> tuple[int, int]:
    if not isinstance(fact, list) or len(fact) != 2 or not all(type(side) is int for side in fact):
        raise ValueError("a size is not two numbers")
    if not all(1 <= side <= _MAX_SIDE for side in fact):
        raise ValueError("a size is out of bounds")
    return fact[0], fact[1]
