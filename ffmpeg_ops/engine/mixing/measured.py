"""A sound that was decoded once, so that its length is known to the sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg, inspect, joined
from ffmpeg_ops.engine.inspect import AudioStream, MediaInfo
from ffmpeg_ops.engine.mixing import filters, measure, predecode
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid


@dataclass(frozen=True)
class Measured:
    """A sound and its length."""

    #: The file, or what was decoded of it.
    path: Path
    #: The stream that is heard; its `start_s` counts from the start of the file.
    stream: AudioStream
    #: Its length at 48 kHz, in samples.
    samples: int

    @classmethod
    def of(cls, path: Path, name: str, work: Work, warn: Callable[[str], object]) -> Measured:
        """Probe and measure the file of param `name`. Raises AssetInvalid or AssetHasNoAudio.

        A sound that changes its sample rate or channels midway is decoded to a file, because FFmpeg would reset the
        filters that count its samples.
        """
        path = joined.continuous(path, name, work, warn)
        info, stream = inspect.audio_asset(path, name, work)
        for warning in info.audio_warnings:
            warn(warning)
        stream = replace(stream, start_s=stream.start_s - info.start_s)
        try:
            length_s, whole = measure.length_s(path, stream, work)
        except measure.UnsteadySound:
            path, errors = predecode.decode(path, stream, f"measured-{name}.w64", ffmpeg.MAX_LENGTH_S, work)
            stream = replace(stream, index=0, codec=predecode.CODEC, start_s=0.0, channels=2, layout="stereo")
            length_s, whole = measure.length_s(path, stream, work)[0], not errors
        if not length_s:
            raise AssetInvalid(f"{name}: the file's sound cannot be decoded.")
        if not whole:
            warn(f"{name}: parts of the sound could not be decoded")
        return cls(path, stream, round(_without_padding(length_s, info, stream) * filters.RATE))


def _without_padding(length_s: float, info: MediaInfo, stream: AudioStream) -> float:
    """The length of a sound of which `length_s` can be decoded.

    FFmpeg decodes the last packet of an M4A to its end, with silence that the encoder has added. The file states where
    that begins.
    """
    if "mov" not in info.formats or info.video or not info.duration_s or not stream.duration_s:
        return length_s
    stated_s = min(info.duration_s, stream.duration_s)
    return stated_s if 0 < length_s - stated_s < 2 * filters.FRAME / stream.sample_rate else length_s
