"""The film's one sound: voices, music, the clips' own and those of video overlays, placed by the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.compose.overlays import Overlays
from ffmpeg_ops.compose.probing import Files
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing import mixer
from ffmpeg_ops.engine.mixing.voice import Sound
from ffmpeg_ops.engine.timeline.layout import Timeline
from ffmpeg_ops.engine.timeline.rates import SAMPLE_RATE, exact_s, frame_count
from ffmpeg_ops.operation import Work

MUSIC_UNDER_SPEECH = 0.2
_FILE = "sound.w64"


def make(
    params: Mapping[str, Any],
    files: Files,
    timeline: Timeline,
    overlays: Overlays,
    work: Work,
    warn: Callable[[str], object],
) -> Path | None:
    """Mix the sound to a file of exactly `timeline.samples`; None where nothing is heard. Raises like `mixer.mix`."""
    sounds = [sound for sound in _sounds(params, files, timeline, overlays) if sound.samples > 0 and sound.volume > 0]
    if not sounds:
        return None
    made = work.directory / _FILE
    fade_out = min(timeline.samples, round(params["fade_out"] * SAMPLE_RATE))
    mixed = mixer.mix(sounds, timeline.samples, made, work, fade_out=fade_out, loudness=params["loudness"])
    for warning in mixed.warnings:
        warn(warning)
    return made


def _sounds(params: Mapping[str, Any], files: Files, timeline: Timeline, overlays: Overlays) -> Iterator[Sound]:
    spoken = "narration" in params
    for i, (scene, span) in enumerate(zip(params["scenes"], timeline.spans, strict=True)):
        name, at = f"scenes[{i}]", timeline.sample_of(span.first)
        end, gone = (timeline.sample_of(span.first + span.frames + more) for more in (0, span.overrun))
        if "narration" in scene:
            yield _voice(files, f"{name}.narration.url_audio", scene["narration"], at, end)
        clip = files.clips.get(f"{name}.url_video")
        if clip is None or clip.info.audio is None:
            continue
        volume = scene["volume"]
        if volume is None:
            volume = 0.0 if spoken or "narration" in scene else 1.0
        own = _own(clip, clip.info.audio, at, gone - at, volume)
        own = replace(own, skip_s=scene["start"], fade_out=gone - end)
        if scene["when_short"] == "loop":  # after whole frames, with the picture
            frames = max(1, frame_count(exact_s(clip.length_s) - exact_s(scene["start"]), timeline.rate))
            own = replace(own, loop=True, loop_samples=timeline.sample_of(frames))
        yield own
    if spoken:
        yield _voice(files, "narration.url_audio", params["narration"], 0, timeline.samples)
    for placed in overlays.videos:
        if placed.clip is not None and placed.clip.info.audio is not None and placed.volume:
            at, gone = (timeline.sample_of(frame) for frame in (placed.first, placed.first + placed.count))
            yield _own(placed.clip, placed.clip.info.audio, at, min(gone, timeline.samples) - at, placed.volume)
    if "music" in params:
        yield _music(params, files, timeline)


def _voice(files: Files, name: str, narration: Mapping[str, Any], at: int, end: int) -> Sound:
    sound = files.sounds[name]
    at += frame_count(exact_s(narration["start"]), Fraction(SAMPLE_RATE))
    samples = min(sound.samples, end - at)
    return Sound(sound.path, sound.stream, name, at, samples, volume=narration["volume"], keys=True)


def _own(clip: Clip, stream: AudioStream, at: int, samples: int, volume: float) -> Sound:
    """The sound of a clip, in step with its picture."""
    return Sound(clip.path, stream, clip.name, at, samples, zero_s=clip.stream.start_s, volume=volume, keys=True)


def _music(params: Mapping[str, Any], files: Files, timeline: Timeline) -> Sound:
    music, name = params["music"], "music.url_audio"
    volume = music["volume"]
    if volume is None:
        spoken = any("narration" in owner for owner in (params, *params["scenes"]))
        volume = MUSIC_UNDER_SPEECH if spoken else 1.0
    sound = files.sounds[name]
    return Sound(
        sound.path,
        sound.stream,
        name,
        at=0,
        samples=timeline.samples,
        volume=volume,
        loop=music["loop"],
        loop_samples=sound.samples,
        fade_out=min(timeline.samples, round(music["fade_out"] * SAMPLE_RATE)),
        ducked=music["ducking"],
    )
