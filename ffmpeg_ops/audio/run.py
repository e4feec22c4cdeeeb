"""Measures every sound by decoding it, then joins them in one filter graph and encodes once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg, inspect, joined
from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing import filters, measure, predecode
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, AssetTooLarge, EncodeFailed

_ENCODERS = {
    "m4a": [*filters.AAC, "-movflags", "+faststart", "-f", "ipod"],
    "mp3": ["-c:a", "libmp3lame", "-b:a", str(filters.AAC_RATE), "-f", "mp3"],
    "wav": ["-c:a", "pcm_s16le", "-rf64", "auto", "-f", "wav"],
}
_MEASURED = 0.3  # the share of the work until all sounds are measured


@dataclass(frozen=True)
class Sound:
    """One of the sounds."""

    #: The file.
    path: Path
    #: The stream that is heard; its `start_s` counts from the start of the file.
    stream: AudioStream
    #: Its length at 48 kHz, in samples.
    samples: int


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    sounds: list[Sound] = []
    gap = round(params["gap"] * filters.RATE)
    for i, (name, path) in enumerate(assets.items(), 1):
        sounds.append(_measured(path, name, len(sounds), work, warnings.append))
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


def _measured(path: Path, name: str, number: int, work: Work, warn: Callable[[str], object]) -> Sound:
    """Probe and measure one file. Raises AssetInvalid or AssetHasNoAudio.

    A sound that changes its sample rate or channels midway is decoded to a file, because FFmpeg would reset the graph.
    """
    path = joined.continuous(path, name, work, warn)
    info, stream = inspect.audio_asset(path, name, work)
    for warning in info.audio_warnings:
        warn(warning)
    stream = replace(stream, start_s=stream.start_s - info.start_s)
    try:
        length_s, whole = measure.length_s(path, stream, work)
    except measure.UnsteadySound:
        path, errors = predecode.decode(path, stream, f"sound-{number}.w64", ffmpeg.MAX_LENGTH_S, work)
        stream = replace(stream, index=0, codec=predecode.CODEC, start_s=0.0, channels=2, layout="stereo")
        length_s, whole = measure.length_s(path, stream, work)[0], not errors
    if not length_s:
        raise AssetInvalid(f"{name}: the file's sound cannot be decoded.")
    if not whole:
        warn(f"{name}: parts of the sound could not be decoded")
    return Sound(path, stream, round(length_s * filters.RATE))


def _starts(sounds: Sequence[Sound], gap: int) -> list[int]:
    """The samples at which the sounds begin, and at which the last one ends."""
    begins = list(accumulate((sound.samples + gap for sound in sounds), initial=0))
    return [*begins[:-1], begins[-1] - gap]


def _inputs(sounds: Sequence[Sound]) -> list[str]:
    return [option for sound in sounds for option in (*ffmpeg.INPUT_LIMITS, "-i", str(sound.path))]


def _graph(sounds: Sequence[Sound], gap: int, finish: str) -> str:
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
