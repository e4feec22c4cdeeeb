"""Decoding before mixing, for a sound that changes its sample rate or its channels midway: damaged, or joined files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing import filters
from ffmpeg_ops.operation import Work

CODEC = "pcm_f32le"
_BYTES_PER_S = filters.RATE * 2 * 4
_HEADER_BYTES = 1_000_000


def decode(path: Path, stream: AudioStream, name: str, max_s: float, work: Work) -> tuple[Path, int]:
    """Decode up to `max_s` of a sound to a file `name` in the work directory; return it and its decode errors.

    FFmpeg resets its filters where a sound changes. That is harmless here, because no filter counts samples. Parts that
    cannot be decoded are left out, so later parts play slightly earlier.
    """
    made = work.directory / name
    size = round(max_s * _BYTES_PER_S)
    limits = replace(work.limits, max_output_bytes=size + _HEADER_BYTES)
    source = [*ffmpeg.INPUT_LIMITS, "-i", str(path), "-map", f"0:{stream.index}"]
    encoded = ffmpeg.encode(
        # -t would trust timestamps, which are wrong for a moment where the sound changes
        [
            *[*source, "-af", filters.without_timestamps(stream), "-c:a", CODEC],
            *["-fs", str(size + _HEADER_BYTES // 2), "-f", "w64", name],
        ],
        replace(work, limits=limits, progress=lambda share: None),
        length_s=max_s,
        made=made,
    )
    return made, encoded.errors
