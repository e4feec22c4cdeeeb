"""Reads the picture of an overlay. Runs in a confined child, which has this module and all that it needs loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ffmpeg_ops.engine.overlays.placement import Size, fitted
from ffmpeg_ops.engine.stills import image
from ffmpeg_ops.engine.zygote import Returned
from wire.errors import AssetInvalid, AssetTooLarge

#: Maximum of what one call returns of an animation, and of all its frames: of longer ones, frames are left out.
MAX_CALL_BYTES, MAX_CALL_FRAMES = 100_000_000, 2000
MAX_ANIMATION_BYTES = 600_000_000
_ANIMATED = ("GIF", "WEBP", "PNG")
_MAX_PIXELS = 16_000_000  # of one frame of an animation
# As browsers do: who writes less than 20 ms means as fast as is usual.
_SHORTEST_MS, _USUAL_MS = 20, 100
_EXACT = 1 + 1e-9  # so that rounding up the shrunk size does not add a pixel

Image.init()  # formats are found by plugins, which are imported before the child can read no more code


def read(arguments: Mapping[str, Any]) -> Returned:
    """The pixels of a picture as RGBA, in the largest size that fits `box`: all of them, or frame by frame.

    Of an animation, frames from number `first` are read until they are shown for `wanted_ms`, with how long each is
    shown, or until there are MAX_CALL_BYTES of them; then `next` is the first one that is left.
    """
    path, name, box = Path(arguments["path"]), arguments["name"], tuple(arguments["box"])
    with warnings.catch_warnings(action="ignore"):
        if (animation := _animation(path)) is not None:
            return _frames(animation, name, box, arguments["first"], arguments["wanted_ms"])
    loaded = image.load(path, name, lambda whole: whole[0] / fitted(whole, box)[0] * _EXACT, alpha=True)
    picture = _sized(loaded.picture.convert("RGBA"), fitted(loaded.size, box))
    return {"size": picture.size, "shown_ms": [0], "warnings": loaded.warnings, "next": None}, [picture.tobytes()]


def _animation(path: Path) -> Image.Image | None:
    """The opened image if it has several frames."""
    try:
        opened = Image.open(path, formats=_ANIMATED)
        return opened if getattr(opened, "is_animated", False) else None
    except Exception:  # Pillow's decoders raise many kinds of errors; `image.load` says what is wrong
        return None


def _frames(animation: Image.Image, name: str, box: Size, first: int, wanted_ms: int) -> Returned:
    if animation.width * animation.height > _MAX_PIXELS:
        raise AssetTooLarge(f"{name}: the animation has more than {_MAX_PIXELS // 1_000_000} megapixels.")
    size = fitted(animation.size, box)
    frame_bytes = size[0] * size[1] * 4
    total: int = getattr(animation, "n_frames", 1) - _hidden(animation)
    step = -(-min(total, wanted_ms // _SHORTEST_MS + 1) * frame_bytes // MAX_ANIMATION_BYTES) or 1
    facts: dict[str, Any] = {"size": size, "shown_ms": [], "warnings": [], "next": None}
    if step > 1 and first == 0:
        facts["warnings"] = [f"{name}: the animation is so long that only one in {step} of its frames is shown"]
    limit = max(1, min(MAX_CALL_FRAMES, MAX_CALL_BYTES // frame_bytes))
    return facts, _read_frames(animation, name, range(first, total), wanted_ms, step, limit, facts)


def _hidden(animation: Image.Image) -> int:
    """How many frames come before the animation: a PNG may have a picture for those who show only one."""
    return int(getattr(animation, "default_image", False))


def _read_frames(
    animation: Image.Image, name: str, numbers: range, wanted_ms: int, step: int, limit: int, facts: dict[str, Any]
) -> Iterator[bytes]:
    """Every `step`th frame. `facts`, which are sent after the frames, are completed."""
    shown_ms: list[int] = facts["shown_ms"]
    for i in numbers:
        shown = i % step == 0
        if sum(shown_ms) >= wanted_ms:
            return
        if shown and len(shown_ms) == limit:
            facts["next"] = i
            return
        try:
            animation.seek(i + _hidden(animation))
            picture = _sized(animation.convert("RGBA"), facts["size"]) if shown else None
            ms = round(animation.info.get("duration", 0))
        except EOFError:
            return
        except Exception as error:  # Pillow's decoders raise many kinds of errors on damaged files
            if i == 0:
                raise AssetInvalid(f"{name}: the animation is damaged.", detail=repr(error)) from error
            facts["warnings"].append(f"{name}: the animation is damaged; frames from number {i + 1} are left out")
            return
        ms = ms if ms >= _SHORTEST_MS else _USUAL_MS
        if picture:
            shown_ms.append(ms)
            yield picture.tobytes()
        else:
            shown_ms[-1] += ms


def _sized(picture: Image.Image, size: Size) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
