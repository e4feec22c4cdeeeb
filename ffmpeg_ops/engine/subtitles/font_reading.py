"""Checks, measures and renames a font. Runs in a confined child, which has this module and all that it needs loaded.

The font gets a name of its own, because libass and fontconfig find it by that: the name in the file may be missing, be
that of an installed font, or hold characters that end a tag.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import ImageFont

from ffmpeg_ops.engine.subtitles.fonts import REFERENCE
from ffmpeg_ops.engine.zygote import Returned
from wire.errors import AssetInvalid, AssetTooLarge
from wire.sniffing import FONT, HEAD_BYTES, sniff

MAX_BYTES = 40_000_000  # the largest fonts, with all Chinese, Japanese and Korean characters, have 20 MB
_WEB_FONTS = ("woff", "woff2")
_COLLECTION = b"ttcf"
_MAX_TABLES = 255
_WINDOWS, _UNICODE, _ENGLISH = 3, 1, 0x409
_FAMILY, _STYLE, _FULL, _POSTSCRIPT = 1, 2, 4, 6


def read(arguments: Mapping[str, Any]) -> Returned:
    """The font at `path`, of the param `name`, under the name `family`, and how large its `characters` are.

    Of a collection, the first font. Raises AssetTooLarge past MAX_BYTES, and AssetInvalid for what is no TTF or OTF,
    cut off or damaged.
    """
    path, name = Path(arguments["path"]), arguments["name"]
    if path.stat().st_size > MAX_BYTES:
        raise AssetTooLarge(f"{name}: the font is larger than {MAX_BYTES // 1_000_000} MB.")
    content = path.read_bytes()
    found = sniff(content[:HEAD_BYTES])
    if found.name in _WEB_FONTS:
        raise AssetInvalid(f"{name}: the file is {found.label}; use the TTF or OTF file of the same font.")
    if found is not FONT:
        raise AssetInvalid(f"{name}: the file is {found.label}, not a TTF or OTF font.")
    try:
        renamed = _renamed(content, arguments["family"])
        font = ImageFont.truetype(io.BytesIO(renamed), REFERENCE)
        widths = [font.getlength(char) for char in arguments["characters"]]
    except EOFError as error:
        raise AssetInvalid(f"{name}: the font is cut off.") from error
    except Exception as error:  # FreeType's errors come as several kinds
        raise AssetInvalid(f"{name}: the font is damaged.", detail=repr(error)) from error
    return {"height": sum(font.getmetrics()), "widths": widths}, [renamed]


def _renamed(content: bytes, family: str) -> bytes:
    """The font with its tables as they are, but the one of its names. Raises EOFError where one is not in the file."""
    try:
        (at,) = struct.unpack_from(">I", content, 12) if content.startswith(_COLLECTION) else (0,)
        version, count = struct.unpack_from(">4sH", content, at)
        records = [struct.unpack_from(">4s4xII", content, at + 12 + 16 * i) for i in range(min(count, _MAX_TABLES))]
    except struct.error as error:
        raise EOFError from error
    if any(start + length > len(content) for _, start, length in records):
        raise EOFError
    if count > _MAX_TABLES or sum(length for _, _, length in records) > MAX_BYTES:
        raise ValueError("more tables than a font has, or the same part of the file in many of them")
    tables = {tag: content[start : start + length] for tag, start, length in records}
    return _font(version, {**tables, b"name": _names(family)})


def _font(version: bytes, tables: Mapping[bytes, bytes]) -> bytes:
    """A font of these tables; readers ignore the checksums."""
    power = len(tables).bit_length() - 1
    head = struct.pack(">4s4H", version, len(tables), 16 << power, power, 16 * (len(tables) - (1 << power)))
    padded = [content + bytes(-len(content) % 4) for _, content in sorted(tables.items())]
    starts = accumulate((len(content) for content in padded), initial=len(head) + 16 * len(tables))
    for (tag, content), start in zip(sorted(tables.items()), starts, strict=False):
        head += struct.pack(">4s4xII", tag, start, len(content))
    return head + b"".join(padded)


def _names(family: str) -> bytes:
    """The table of names, with `family` for all of them."""
    texts = {_FAMILY: family, _STYLE: "Regular", _FULL: family, _POSTSCRIPT: family.replace(" ", "")}
    records, stored = b"", b""
    for number, text in texts.items():
        encoded = text.encode("utf-16-be")
        records += struct.pack(">6H", _WINDOWS, _UNICODE, _ENGLISH, number, len(encoded), len(stored))
        stored += encoded
    return struct.pack(">3H", 0, len(texts), 6 + len(records)) + records + stored
