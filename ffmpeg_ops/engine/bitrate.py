"""Calculates the bit rate at which a video fits into a number of bytes."""

from __future__ import annotations

import math
from pathlib import Path

from ffmpeg_ops.engine import packets
from ffmpeg_ops.operation import Work
from wire.errors import OutputTooLarge

MIN_RATE = 30_000  # bits a second; below this no video is watchable
_HEADER_BYTES, _HEADER_BYTES_PER_S = 4_000, 2_000  # MP4's tables for 60 frames and 47 packets of sound a second
_BUFFER_S = 1  # encoders may exceed a rate by a buffer of this length


def video_rate(max_bytes: int, length_s: float, sound_bytes: int) -> int:
    """Bits a second left for the video stream in `max_bytes`. Raises OutputTooLarge below MIN_RATE."""
    others = sound_bytes + _HEADER_BYTES + _HEADER_BYTES_PER_S * length_s
    rate = int((max_bytes - others) * 8 / (length_s + _BUFFER_S))
    if rate < MIN_RATE:
        needed = math.ceil(others + MIN_RATE * (length_s + _BUFFER_S) / 8)
        raise OutputTooLarge(
            f"encoding.max_bytes: {length_s:.1f} seconds of video do not fit into {max_bytes} bytes; at least "
            f"{needed} are needed, {sound_bytes} of them for the sound."
        )
    return rate


def packet_bytes(path: Path, index: int, work: Work, seconds: float | None = None) -> int:
    """The size of a stream's packets, or of those in its first `seconds`."""
    size = 0

    def on_packet(line: str) -> None:
        nonlocal size
        size += int(line.rstrip(",")) if line.rstrip(",").isdigit() else 0

    packets.each(path, ["size"], on_packet, work, index, upto_s=seconds)
    return size
