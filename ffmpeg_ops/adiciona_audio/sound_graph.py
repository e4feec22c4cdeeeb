"""The sound of the output as one filter graph: the new sound alone, or mixed with the video's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing import filters


@dataclass(frozen=True)
class Sounds:
    """The inputs of the graph."""

    #: The new sound, read from FFmpeg's input 1; `start_s` counts from the start of its file.
    new: AudioStream
    #: The video's own sound, None where it is not heard.
    original: AudioStream | None
    #: Length of the output in seconds.
    length_s: float
    #: When the new sound ends, in seconds of the output.
    new_end_s: float
    #: FFmpeg's input that `original` is read from.
    original_input: int = 0


def graph(sounds: Sounds, params: Mapping[str, Any], finish: str = "") -> str:
    """The filter graph from the inputs to the label `[sound]`. `finish` comes last: a gain, or a meter."""
    count = filters.samples(sounds.length_s)
    fit = filters.fit(count)
    new = ",".join([filters.from_its_start(sounds.new), *_shaped(sounds, params), fit])
    if sounds.original is None:
        parts = [f"[1:{sounds.new.index}]{new}"]
        may_clip = params["volume"] > 1 or sounds.new.channels > 2
    else:
        original = f"{filters.on_time(sounds.original)},volume={params['original_volume']:.6f},{fit}"
        louder = {"new": "original", "original": "new"}.get(params["ducking"])
        parts = [
            f"[1:{sounds.new.index}]{new}[new]",
            f"[{sounds.original_input}:{sounds.original.index}]{original}[original]",
            *(filters.duck(params["ducking"], louder, count) if louder else []),
            "[original][new]amix=inputs=2:duration=first:normalize=0",
        ]
        may_clip = True
    ending = finish or (filters.LIMITER if may_clip else "")
    return ";".join(parts) + (f",{ending},{fit}" if ending else "") + "[sound]"


def _shaped(sounds: Sounds, params: Mapping[str, Any]) -> list[str]:
    start = round(params["start"] * filters.RATE)
    length_s = sounds.length_s - start / filters.RATE
    heard_s = min(length_s, sounds.new_end_s - start / filters.RATE)
    chain = [f"atrim=end={length_s:.6f}"]
    if params["loop"]:
        chain.append(filters.loop(length_s))
    if params["volume"] != 1:
        chain.append(f"volume={params['volume']:.6f}")
    if fade := min(params["fade_in"], heard_s):
        chain.append(f"afade=type=in:duration={fade:.6f}")
    if fade := min(params["fade_out"], heard_s):
        chain.append(f"afade=type=out:start_time={heard_s - fade:.6f}:duration={fade:.6f}")
    return [*chain, f"adelay={start}S:all=1"] if start else chain
