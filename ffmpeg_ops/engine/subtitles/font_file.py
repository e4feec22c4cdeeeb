"""Fonts by URL: checked and renamed in a confined child, described by fontconfig in a confined command.

libass finds them in FONTS, a directory of the attempt's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import confined, process
from ffmpeg_ops.engine.subtitles import font_reading
from ffmpeg_ops.engine.subtitles.fonts import FORMAT, Face, Measures, described, face_of
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, EncodeFailed, JobTimeout

FONTS = "fonts"
TIMEOUT_S = 60
_MEMORY_BYTES = 1_000_000_000
_MAX_CHARACTERS = 3000  # that are measured; more do not fit in a call
_MAX_MEASURE = 100_000.0


def load(path: Path, name: str, text: str, work: Work) -> Face:
    """The font of param `name`, measured for `text`; the first one of a collection.

    Raises the reason of `work.stop`, AssetTooLarge, and AssetInvalid for a font that libass could not draw.
    """
    directory = work.directory / FONTS
    directory.mkdir(exist_ok=True)
    number = sum(1 for _ in directory.iterdir())
    content, measures = _read(path, name, f"Reelay Font {number}", text, work)
    own = directory / f"{number}.font"
    own.write_bytes(content)
    try:
        listed = process.output_of(["fc-scan", "-f", FORMAT, f"{FONTS}/{own.name}"], work).decode()
    except (EncodeFailed, JobTimeout) as error:
        work.stop.check()
        raise AssetInvalid(f"{name}: the font is damaged.", detail=repr(error)) from error
    face = next((face_of(fields) for fields in described(listed)), None)
    if face is None or not face.families:
        raise AssetInvalid(f"{name}: the font has no outlines: fonts of bitmaps or colours cannot be drawn.")
    return Face(face.families, str(own), 0, face.weight, face.charset, measures)


def _read(path: Path, name: str, family: str, text: str, work: Work) -> tuple[bytes, Measures]:
    """The renamed font, and its measures."""
    characters = "".join(sorted({*text, *text.upper(), " "}))[:_MAX_CHARACTERS]
    try:
        result = confined.run(
            font_reading.read,
            {"path": str(path.absolute()), "name": name, "family": family, "characters": characters},
            work,
            readable=[path],
            timeout_s=min(TIMEOUT_S, work.limits.timeout_s),
            memory_bytes=_MEMORY_BYTES,
            data_bytes=2 * font_reading.MAX_BYTES,
        )
        height, widths = _number(result.facts.get("height")), result.facts.get("widths")
        if not isinstance(widths, list) or len(widths) != len(characters):
            raise ValueError("not a width for each character")
        measured = dict(zip(characters, map(_number, widths), strict=True))
        return result.data, Measures(measured, max(1.0, height))
    except JobTimeout as error:
        work.stop.check()
        raise AssetInvalid(f"{name}: the font takes too long to read.") from error
    except (confined.Crashed, ValueError) as error:
        raise AssetInvalid(f"{name}: the font is damaged.", detail=repr(error)) from error


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= _MAX_MEASURE:
        raise ValueError("not a measure")
    return float(value)
