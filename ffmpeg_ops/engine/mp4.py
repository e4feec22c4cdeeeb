"""Reads the header of a finished MP4, because ffprobe would take as long as copying half a minute of video.

Of a client's MP4 it reads only what ffprobe does not show: how many descriptions a track has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

_HEAD = struct.Struct(">I4s")
_TO_TABLES = (b"mdia", b"minf", b"stbl")
_TO_DESCRIPTIONS = frozenset({b"moov", b"trak", *_TO_TABLES})
_MAX_BOXES = 100_000  # that are read of a file from outside


@dataclass(frozen=True)
class Track:
    """One track of an MP4."""

    #: How many packets it has.
    packets: int
    #: How long they last, in seconds.
    packets_s: float
    #: How much of that players skip at the start, in seconds.
    skipped_s: float


@dataclass(frozen=True)
class KeyPackets:
    """The packets of the video from which decoding can begin."""

    #: The box that describes the codec, with what decoders need before the first packet.
    description: bytes
    #: Where in the file each of them begins, and its size in bytes.
    places: Sequence[tuple[int, int]]


def tracks(path: Path) -> dict[str, Track]:
    """The tracks of an MP4 made by FFmpeg, by kind: `vide` and `soun`. Raises ValueError for any other file."""
    try:
        return dict(_track(trak) for kind, trak in _boxes(_movie(path)) if kind == b"trak")
    except (struct.error, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{path.name} has no readable header") from error


def key_packets(path: Path) -> KeyPackets:
    """The key packets of the video of an MP4 made by FFmpeg. Raises ValueError for any other file."""
    try:
        traks = (trak for kind, trak in _boxes(_movie(path)) if kind == b"trak")
        tables = next(dict(_boxes(_inside(trak, *_TO_TABLES))) for trak in traks if _track(trak)[0] == "vide")
        keys = {number for (number,) in _entries(tables[b"stss"], ">I")} if b"stss" in tables else None
        places = (place for number, place in enumerate(_places(tables), 1) if keys is None or number in keys)
        return KeyPackets(tables[b"stsd"], list(places))
    except (struct.error, LookupError, ZeroDivisionError, StopIteration) as error:
        raise ValueError(f"{path.name} has no readable header") from error


def changes_description(path: Path) -> bool:
    """Whether a track of an MP4 describes its codec more than once, as joined recordings do.

    A copy that FFmpeg makes of such a track has the first description only, and cannot be decoded after it ends. Any
    file may be passed; only the heads of its boxes are read.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        at = 0
        for _ in range(_MAX_BOXES):
            file.seek(at)
            head = file.read(16)
            if len(head) < 16:
                return False
            size, kind = _HEAD.unpack_from(head)
            if kind == b"stsd" and struct.unpack_from(">I", head, 12)[0] > 1:
                return True
            if size == 1:  # the size of a large box comes after its kind
                size = struct.unpack_from(">Q", head, 8)[0]
            # the boxes inside these follow their heads
            at += _HEAD.size if kind in _TO_DESCRIPTIONS else size or end
    return False


def _places(tables: Mapping[bytes, bytes]) -> Iterator[tuple[int, int]]:
    """Where each packet begins, and its size. Packets are stored in chunks, of which runs are equally long."""
    same, count = struct.unpack_from(">II", tables[b"stsz"], 4)
    sizes = iter([same] * count if same else (size for (size,) in struct.iter_unpack(">I", tables[b"stsz"][12:])))
    chunks = _entries(tables[b"stco"], ">I") if b"stco" in tables else _entries(tables[b"co64"], ">Q")
    lengths = {first: length for first, length, _ in _entries(tables[b"stsc"], ">III")}
    length = 0
    for number, (at,) in enumerate(chunks, 1):
        length = lengths.get(number, length)
        for size in islice(sizes, length):
            yield at, size
            at += size


def _entries(table: bytes, layout: str) -> Iterator[tuple[int, ...]]:
    """The entries of a table, which come after its version and their number."""
    return struct.iter_unpack(layout, table[8:])


def is_index_first(path: Path) -> bool:
    """Whether the box `moov` comes before the media, so that players can begin before they have the whole file."""
    kinds = (kind for kind, _ in _top_level(path))
    return next((kind for kind in kinds if kind in {b"moov", b"mdat"}), None) == b"moov"


def _movie(path: Path) -> bytes:
    """The content of the box `moov`, found without reading the media."""
    for kind, (file, body) in _top_level(path):
        if kind == b"moov":
            return file.read(max(body, 0))
    raise KeyError("moov")


def _top_level(path: Path) -> Iterator[tuple[bytes, tuple[BinaryIO, int]]]:
    """The kind of each box of the file, and the file at its content with the length of that in bytes."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            size, kind = _HEAD.unpack(head)
            body = size - _HEAD.size
            if size == 1:  # the size of a large box comes after its kind
                body = struct.unpack(">Q", file.read(8))[0] - 16
            begin = file.tell()
            yield kind, (file, body)
            if body < 0:
                break
            file.seek(begin + body)


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
    packets = struct.unpack_from(">I", _inside(trak, *_TO_TABLES, b"stsz"), 8)[0]
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
