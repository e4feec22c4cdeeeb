"""Whether a copied video changes the size of its pictures, which most players of MP4 do not expect.

Read here from the finished MP4, because starting FFmpeg for it takes as long as copying half a minute of video.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ffmpeg_ops.engine import ffmpeg, mp4, process
from ffmpeg_ops.operation import Work

_MAX_UNITS = 64  # of one packet; those that state the size come first
_MAX_UNIT_BYTES = 1 << 16  # such a unit has about 50
_SEQUENCE_HEADER = 1  # in AV1


def changes(path: Path, codec: str, work: Work) -> bool:
    """Whether the video of an MP4 made by FFmpeg changes its size, for H.264, HEVC and AV1.

    The key frames are decoded only where they come with a size that the header lacks. Raises the reason of `work.stop`,
    and ValueError for any other file.
    """
    keys = mp4.key_packets(path)
    with path.open("rb") as file:
        for at, size in keys.places:
            work.stop.check()
            if any(unit not in keys.description for unit in _size_units(file, at, size, codec, keys.description)):
                return len(_key_sizes(path, work)) > 1
    return False


def _size_units(file: BinaryIO, at: int, size: int, codec: str, description: bytes) -> Iterator[bytes]:
    """The units of a packet that state the size of the picture."""
    units = _obus(file, at, at + size) if codec == "av1" else _nal_units(file, at, at + size, codec, description)
    for _, (states_size, place, length) in zip(range(_MAX_UNITS), units, strict=False):
        if states_size and length <= _MAX_UNIT_BYTES:
            file.seek(place)
            yield file.read(length)


def _nal_units(file: BinaryIO, at: int, end: int, codec: str, description: bytes) -> Iterator[tuple[bool, int, int]]:
    """For each unit of a packet of H.264 or HEVC: whether it states the size, where it begins, its length in bytes."""
    name, place = (b"avcC", 4) if codec == "h264" else (b"hvcC", 21)
    prefix = (description.partition(name)[2][place : place + 1] or b"\3")[0] % 4 + 1  # bytes of a length
    while at + prefix < end:
        file.seek(at)
        head = file.read(prefix + 1)
        if len(head) <= prefix:
            return
        length, first = int.from_bytes(head[:prefix], "big"), head[prefix]
        yield (first & 31 == 7 if codec == "h264" else first >> 1 & 63 == 33), at + prefix, length
        at += prefix + length


def _obus(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bool, int, int]]:
    """The same for AV1. FFmpeg writes the length of every unit but the last."""
    while at < end:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or not head[0] & 2:
            return
        place, length, shift = (2 if head[0] & 4 else 1), 0, 0
        while True:
            digit = head[place]
            length |= (digit & 127) << shift
            place, shift = place + 1, shift + 7
            if digit < 128 or place == len(head):
                break
        yield head[0] >> 3 & 15 == _SEQUENCE_HEADER, at, place + length
        at += place + length


def _key_sizes(path: Path, work: Work) -> set[str]:
    """The sizes of the key frames, as FFmpeg decodes them."""
    found: set[str] = set()
    entries = ["-of", "csv=p=0", "-select_streams", "v:0", "-show_entries", "frame=width,height"]
    command = ["ffprobe", "-v", "quiet", *entries, "-skip_frame", "nokey", *ffmpeg.DECODE_LIMITS, "-i", str(path)]
    process.each_line_of(command, work, lambda line: found.add(line.rstrip(",")), timeout_s=work.limits.timeout_s)
    return found - {""}
