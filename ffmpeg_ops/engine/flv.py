"""Reads from an FLV what ffprobe does not show: whether its video changes its description."""

from __future__ import annotations

import struct
from pathlib import Path

_TAG = struct.Struct(">B3s7sBB")  # its kind, its length, its time and stream, then the first bytes of its content
_BEFORE_TAGS, _AROUND = 13, 15  # bytes of the file's header, and of a tag beside its content
_VIDEO, _CODECS, _DESCRIPTION = 9, frozenset({7, 12}), 0  # H.264 and HEVC
_MAX_TAGS, _MAX_BYTES = 5_000_000, 1 << 16


def changes_description(path: Path) -> bool:
    """Whether an FLV describes its H.264 or HEVC differently midway, as broadcasts of several cameras do.

    A copy that FFmpeg makes of it has the first description only, and cannot be decoded after it ends. Only the
    descriptions and the heads of the tags are read.
    """
    first = None
    with path.open("rb") as file:
        at = _BEFORE_TAGS
        for _ in range(_MAX_TAGS):
            file.seek(at)
            head = file.read(_TAG.size)
            if len(head) < _TAG.size:
                return False
            kind, length, _, codec, part = _TAG.unpack(head)
            size = int.from_bytes(length, "big")
            if kind == _VIDEO and codec & 15 in _CODECS and part == _DESCRIPTION and size <= _MAX_BYTES:
                description = file.read(max(size - 2, 0))
                first = first or description
                if description != first:
                    return True
            # recordings that were joined byte by byte have another header
            at += _BEFORE_TAGS if head.startswith(b"FLV\1") else size + _AROUND
    return False
