"""A sound that changes its rate or its channels on the way, by damage or because files were joined, made steady."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing import sound
from ffmpeg_ops.operation import Work

_BYTES_PER_S = sound.RATE * 2 * 4
_HEADER_BYTES = 1_000_000


def decoded(path: Path, stream: AudioStream, name: str, most_s: float, work: Work) -> tuple[Path, int]:
    """Decodes up to `most_s` of a sound to a file `name`, and counts its decode errors.

    FFmpeg begins its filters anew where a sound changes. Here that does no harm: nothing is counted, the samples are
    written as they come. What cannot be decoded is left out, so that what follows comes a little earlier.
    """
    made = work.directory / name
    size = round(most_s * _BYTES_PER_S)
    limits = replace(work.limits, max_output_bytes=size + _HEADER_BYTES)
    source = [*ffmpeg.INPUT_LIMITS, "-i", str(path), "-map", f"0:{stream.index}", "-af", sound.as_it_comes(stream)]
    told = ffmpeg.encode(
        # -t would trust times that are wrong for a moment where the sound changes
        [*source, "-c:a", "pcm_f32le", "-fs", str(size + _HEADER_BYTES // 2), "-f", "w64", name],
        replace(work, limits=limits, progress=lambda share: None),
        length_s=most_s,
        made=made,
    )
    return made, told.errors
