"""Reads the packets of media files without decoding them: their number, and when they are shown."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg, process
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed

MAX_FRAMES = 1_000_000  # more than four hours at 60 frames a second


def each(
    path: Path,
    fields: Sequence[str],
    consume: Callable[[str], object],
    work: Work,
    index: int | None = None,
    *,
    upto_s: float | None = None,
) -> None:
    """Pass the `fields` of every packet to `consume`, comma-separated, in ffprobe's own order.

    Only stream `index` is read, or all of them, and only the first `upto_s` seconds, or everything.
    """
    selected = [] if index is None else ["-select_streams", str(index)]
    selected += [] if upto_s is None else ["-read_intervals", f"%+{upto_s:.6f}"]
    entries = ["-of", "csv=p=0", "-show_entries", f"packet={','.join(fields)}", *selected]
    command = ["ffprobe", "-v", "error", *entries, *ffmpeg.INPUT_LIMITS, "-i", str(path)]
    process.each_line_of(command, work, consume, timeout_s=work.limits.timeout_s)


def count_frames(path: Path, index: int, work: Work) -> int | None:
    """How many frames of stream `index` are shown, counted by its packets; None when they cannot be read."""
    count = 0

    def on_packet(flags: str) -> None:
        nonlocal count
        count += bool(flags) and "D" not in flags

    try:
        each(path, ["flags"], on_packet, work, index)
    except EncodeFailed:
        return None
    return count


def length_s(path: Path, index: int, work: Work) -> float | None:
    """How long stream `index` lasts, from its first packet to the end of its last; None without timestamps."""
    first, end = math.inf, -math.inf

    def on_packet(line: str) -> None:
        nonlocal first, end
        pts, dts, length, *_ = f"{line},,,".split(",")
        if (begin := shown_s(pts, dts)) is not None:
            first, end = min(first, begin), max(end, begin + (number(length) or 0))

    each(path, ["pts_time", "dts_time", "duration_time"], on_packet, work, index)
    return end - first if end > first else None


def frame_times(path: Path, index: int, work: Work) -> array[float]:
    """When the frames of stream `index` are shown, in order, by its packets: at most MAX_FRAMES of them."""
    found = array("d")

    def on_packet(line: str) -> None:
        pts, dts, flags, *_ = f"{line},,,".split(",")
        time_s = shown_s(pts, dts)
        if time_s is not None and "D" not in flags and len(found) < MAX_FRAMES:
            found.append(time_s)

    each(path, ["pts_time", "dts_time", "flags"], on_packet, work, index)
    return array("d", sorted(found))


def shown_s(pts: str, dts: str) -> float | None:
    """When a packet is shown, from what ffprobe printed: AVI has decoding times only."""
    time_s = number(pts)
    return number(dts) if time_s is None else time_s


def number(text: str) -> float | None:
    """What ffprobe printed for a number; None where it is unknown."""
    try:
        return float(text)
    except ValueError:
        return None
