"""Reads the header of a finished MP4, because ffprobe would take as long as copying half a minute of video."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct(">I4s")
_TO_PACKETS = (b"mdia", b"minf", b"stbl", b"stsz")


@dataclass(frozen=True)
class Track:
    """One track of an MP4."""

    #: How many packets it has.
    packets: int
    #: How long they last, in seconds.
    packets_s: float
    #: How much of that players skip at the start, in seconds.
    skipped_s: float


def tracks(path: Path) -> dict[str, Track]:
    """The tracks of an MP4 made by FFmpeg, by kind: `vide` and `soun`. Raises ValueError for any other file."""
    try:
        return dict(_track(trak) for kind, trak in _boxes(_movie(path)) if kind == b"trak")
    except (struct.error, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{path.name} has no readable header") from error


def _movie(path: Path) -> bytes:
    """The content of the box `moov`, found without reading the media."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            size, kind = _HEAD.unpack(head)
            body = size - _HEAD.size
            if size == 1:  # the size of a large box comes after its kind
                body = struct.unpack(">Q", file.read(8))[0] - 16
            if kind == b"moov":
                return file.read(max(body, 0))
            if body < 0:
                break
            file.seek(body, 1)
    raise KeyError("moov")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, kind = _HEAD.unpack_from(data, at)
        yield kind, data[at + _HEAD.size : at + size]
        at += max(size, _HEAD.size)


def _inside(data: bytes, *path: bytes) -> bytes:
    for kind in path:
        data = dict(_boxes(data))[kind]
    return data


def _track(trak: bytes) -> tuple[str, Track]:
    header = _inside(trak, b"mdia", b"mdhd")
    ticks, length = struct.unpack_from(">IQ" if header[0] else ">II", header, 20 if header[0] else 12)
    packets = struct.unpack_from(">I", _inside(trak, *_TO_PACKETS), 8)[0]
    kind = _inside(trak, b"mdia", b"hdlr")[8:12].decode()
    return kind, Track(packets, length / ticks, _skipped(trak) / ticks)


def _skipped(trak: bytes) -> int:
    """How many ticks players skip: where the track's edit begins. An empty edit before it begins at −1."""
    try:
        edits = _inside(trak, b"edts", b"elst")
    except KeyError:
        return 0
    entry = struct.Struct(">QqI" if edits[0] else ">IiI")
    begins: list[int] = [start for _, start, _ in entry.iter_unpack(edits[8:])]
    return max([0, *begins])
