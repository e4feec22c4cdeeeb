"""Measures every sound by decoding it, then joins them in one filter graph and encodes once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.mixing import filters, measure
from ffmpeg_ops.engine.mixing.measured import Measured
from ffmpeg_ops.operation import Work
from wire.errors import AssetTooLarge, EncodeFailed

_ENCODERS = {
    "m4a": [*filters.AAC, "-movflags", "+faststart", "-f", "ipod"],
    "mp3": ["-c:a", "libmp3lame", "-b:a", str(filters.AAC_RATE), "-f", "mp3"],
    "wav": ["-c:a", "pcm_s16le", "-rf64", "auto", "-f", "wav"],
}
_MEASURED = 0.3  # the share of the work until all sounds are measured


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    sounds: list[Measured] = []
    gap = round(params["gap"] * filters.RATE)
    for i, (name, path) in enumerate(assets.items(), 1):
        sounds.append(Measured.of(path, name, work, warnings.append))
        total_s = _starts(sounds, gap)[-1] / filters.RATE
        if total_s > ffmpeg.MAX_LENGTH_S:
            raise AssetTooLarge(f"{name}: the sounds are longer than {ffmpeg.MAX_LENGTH_S // 3600} hours together.")
        work.progress(_MEASURED * i / len(assets))
    starts = [start / filters.RATE for start in _starts(sounds, gap)]
    finish = ""
    if params["loudness"] is not None:
        measured = measure.loudness_lufs(_inputs(sounds), _graph(sounds, gap, measure.METER), work)
        finish = filters.gain(measured, params["loudness"])
    _encode(work, params["format"], [*_inputs(sounds), "-filter_complex", _graph(sounds, gap, finish)], starts[-1])
    stats = {"ffmpeg_version": ffmpeg.version(), **({"warnings": warnings} if warnings else {})}
    return {**stats, "result": {"duration_s": round(starts[-1], 6), "starts": [round(s, 6) for s in starts[:-1]]}}


def _starts(sounds: Sequence[Measured], gap: int) -> list[int]:
    """The samples at which the sounds begin, and at which the last one ends."""
    begins = list(accumulate((sound.samples + gap for sound in sounds), initial=0))
    return [*begins[:-1], begins[-1] - gap]


def _inputs(sounds: Sequence[Measured]) -> list[str]:
    return [option for sound in sounds for option in (*ffmpeg.INPUT_LIMITS, "-i", str(sound.path))]


def _graph(sounds: Sequence[Measured], gap: int, finish: str) -> str:
    """The filter graph from the inputs to the label `[sound]`; `finish` comes last: a gain, or a meter."""
    parts = []
    for i, sound in enumerate(sounds):
        length = sound.samples + (gap if i + 1 < len(sounds) else 0)
        parts.append(f"[{i}:{sound.stream.index}]{filters.from_its_start(sound.stream)},{filters.fit(length)}[part{i}]")
    labels = "".join(f"[part{i}]" for i in range(len(sounds)))
    chain = [f"concat=n={len(sounds)}:v=0:a=1", *([finish] if finish else []), filters.fit(_starts(sounds, gap)[-1])]
    return f"{';'.join(parts)};{labels}{','.join(chain)}[sound]"


def _encode(work: Work, form: str, arguments: list[str], length_s: float) -> None:
    def on_progress(share: float) -> None:
        work.progress(_MEASURED + (1 - _MEASURED) * share)

    made = work.output("audio")
    encoded = ffmpeg.encode(
        [*arguments, "-map", "[sound]", "-map_metadata", "-1", *_ENCODERS[form], made.name],
        replace(work, progress=on_progress),
        length_s=length_s,
        made=made,
    )
    if encoded.restarted:
        raise EncodeFailed(detail="FFmpeg restarted its filters")
