"""Reads images of shots. Runs in a confined child, which has this module and all that it needs loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ffmpeg_ops.engine.stills import image
from ffmpeg_ops.engine.stills.camera import FINEST, Move, finest
from ffmpeg_ops.engine.zygote import Returned

_STRIP = 512

Image.init()  # formats are found by plugins, which are imported before the child can read no more code


def read(arguments: Mapping[str, Any]) -> Returned:
    """The pixels of an image as RGB, no larger than its frames need, and what `shot.load` must know about them."""
    move, frame, count = Move(**arguments["move"]), tuple(arguments["frame"]), arguments["count"]
    contain = arguments["fit"] == "contain"

    def factor(whole: tuple[int, int]) -> float:
        stage = image.canvas_size(whole, frame) if contain else whole
        return finest(move.boxes(stage, frame, count), frame) / FINEST

    loaded = image.load(Path(arguments["path"]), arguments["name"], factor)
    picture = image.contained(loaded.picture, frame, arguments["background"]) if contain else loaded.picture
    facts = {"whole": loaded.size, "size": picture.size, "warnings": loaded.warnings}
    return facts, _strips(picture)


def check(arguments: Mapping[str, Any]) -> Returned:
    """Check the headers of images, by name, before any of them is needed."""
    for name, path in arguments["paths"].items():
        image.check(Path(path), name)
    return {}, ()


def _strips(picture: Image.Image) -> Iterator[bytes]:
    for top in range(0, picture.height, _STRIP):
        yield picture.crop((0, top, picture.width, min(top + _STRIP, picture.height))).tobytes()
