"""Transport streams whose timestamps jump: recordings that were joined byte by byte, or restarted midway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg, packets
from ffmpeg_ops.operation import Work
from wire import sniffing
from wire.errors import AssetInvalid, EncodeFailed

_BACK_S, _AHEAD_S = 0.1, 10  # what FFmpeg, too, takes for a jump
_LARGER = 2  # how much larger the copy may be; it has more padding


def continuous(path: Path, name: str, work: Work, warn: Callable[[str], object]) -> Path:
    """`path`, or where its timestamps jump a copy in which they do not: its header states the length of one part.

    Passes a warning about the file of param `name` to `warn`. A file that cannot be read is returned as it is.
    """
    if sniffing.sniff_file(path) not in {sniffing.TRANSPORT, sniffing.MPEG}:
        return path
    made = work.directory / f"continuous-{name}.ts"
    limits = replace(work.limits, max_output_bytes=_LARGER * path.stat().st_size + 1_000_000)
    command = [*ffmpeg.INPUT_LIMITS, "-i", str(path), "-map", "0:v?", "-map", "0:a?", "-c", "copy", "-f", "mpegts"]
    quiet = replace(work, limits=limits, progress=lambda share: None)
    try:
        if not _jumps(path, work):
            return path
        ffmpeg.encode([*command, *ffmpeg.OUTPUT_LIMITS, made.name], quiet, length_s=ffmpeg.MAX_LENGTH_S, made=made)
    except (AssetInvalid, EncodeFailed):
        return path  # whoever probes it says what is wrong
    warn(f"{name}: its timestamps jump; its parts were joined")
    return made


def _jumps(path: Path, work: Work) -> bool:
    previous: dict[str, float] = {}
    found = False

    def on_packet(line: str) -> None:
        nonlocal found
        kind, stream, dts, *_ = f"{line},,".split(",")
        if kind not in {"video", "audio"} or (now := packets.number(dts)) is None:
            return
        found |= not -_BACK_S < now - previous.get(stream, now) < _AHEAD_S
        previous[stream] = now

    packets.each(path, ["codec_type", "stream_index", "dts_time"], on_packet, work)
    return found
