"""The film's one sound: voices, music, the clips' own and those of video overlays, placed by the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffmpeg_ops.compose.probing import Files
from ffmpeg_ops.engine.mixing import mixer
from ffmpeg_ops.engine.mixing.mixer import Sound
from ffmpeg_ops.engine.timeline.layout import Timeline
from ffmpeg_ops.engine.timeline.rates import SAMPLE_RATE
from ffmpeg_ops.operation import Work

MUSIC_UNDER_SPEECH = 0.2
_FILE = "sound.w64"


def make(
    params: Mapping[str, Any], files: Files, timeline: Timeline, work: Work, warn: Callable[[str], object]
) -> Path | None:
    """Mix the sound to a file of exactly `timeline.samples`; None where nothing is heard. Raises like `mixer.mix`."""
    sounds = [sound for sound in _sounds(params, files, timeline) if sound.samples > 0 and sound.volume > 0]
    if not sounds:
        return None
    made = work.directory / _FILE
    fade_out = min(timeline.samples, round(params["fade_out"] * SAMPLE_RATE))
    mixed = mixer.mix(sounds, timeline.samples, made, work, fade_out=fade_out, loudness=params["loudness"])
    for warning in mixed.warnings:
        warn(warning)
    return made


def _sounds(params: Mapping[str, Any], files: Files, timeline: Timeline) -> Iterator[Sound]:
    speaks = "narration" in params
    for i, (scene, span) in enumerate(zip(params["scenes"], timeline.spans, strict=True)):
        path = f"scenes[{i}]"
        at, end = timeline.sample_of(span.first), timeline.sample_of(span.first + span.frames)
        if "narration" in scene:
            yield _voice(files, f"{path}.narration", scene["narration"], at, end)
        if (clip := files.clips.get(f"{path}.url_video")) and clip.info.audio:
            volume = scene["volume"]
            if volume is None:
                volume = 0.0 if speaks or "narration" in scene else 1.0
            after = timeline.sample_of(span.first + span.frames + span.overrun)
            own = _own_sound(clip, scene["start"], at, after, volume)
            yield replace(own, fade_out=after - end, keys=True, loop=scene["when_short"] == "loop")
