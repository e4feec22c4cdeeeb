"""Reads what must be known about a film's files before its first frame: clips, lengths of voices, images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.mixing.measured import Measured
from ffmpeg_ops.engine.stills import shot
from ffmpeg_ops.engine.timeline.layout import Scene
from ffmpeg_ops.engine.timeline.rates import SAMPLE_RATE, exact_s
from ffmpeg_ops.operation import Work
from wire.errors import InvalidParams

Warn = Callable[[str], object]
_AT_ONCE = 4  # files that are probed at a time


@dataclass(frozen=True)
class Files:
    """What was found out about the files of a film, by the paths of their params."""

    #: Videos of scenes and overlays.
    clips: Mapping[str, Clip]
    #: Sounds: voices and music, decoded once to know their length.
    sounds: Mapping[str, Measured]

    def scenes(self, params: Mapping[str, Any]) -> Iterator[Scene]:
        """The scenes with what the timeline must know. Raises InvalidParams for a `start` after its clip's end."""
        for i, scene in enumerate(params["scenes"]):
            path = f"scenes[{i}]"
            clip = self.clips.get(f"{path}.url_video")
            if clip is not None and scene["start"] >= clip.length_s:
                raise InvalidParams(f"{path}.start: the clip ends after {clip.length_s:.2f} seconds.")
            yield Scene(
                duration=exact_s(scene["duration"]) if "duration" in scene else None,
                narration_end=self.narration_end(scene, f"{path}."),
                pause_after=exact_s(scene["pause_after"]),
                clip=exact_s(clip.length_s) - exact_s(scene["start"]) if clip else None,
                transition=exact_s(scene["transition"]["duration"]) if "transition" in scene else Fraction(0),
            )

    def narration_end(self, owner: Mapping[str, Any], prefix: str = "") -> Fraction | None:
        """When the narration of a scene, or of the film, ends; None without one."""
        if "narration" not in owner:
            return None
        sound = self.sounds[f"{prefix}narration.url_audio"]
        return exact_s(owner["narration"]["start"]) + Fraction(sound.samples, SAMPLE_RATE)


def probe(assets: Mapping[str, Path], work: Work, warn: Warn) -> Files:
    """Probe every file but subtitles and fonts, a few at a time. Raises JobFault, the first of the params first."""
    kinds = {kind: [name for name in assets if name.endswith(kind)] for kind in ("url_image", "url_video", "url_audio")}
    shot.check(work, {name: assets[name] for name in kinds["url_image"]})
    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        clips = pool.map(lambda name: Clip.open(assets[name], name, work, warn), kinds["url_video"])
        sounds = pool.map(lambda name: Measured.of(assets[name], name, work, warn), kinds["url_audio"])
        return Files(
            dict(zip(kinds["url_video"], clips, strict=True)), dict(zip(kinds["url_audio"], sounds, strict=True))
        )
