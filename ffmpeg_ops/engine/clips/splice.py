"""Pieces of clips, one after another, become one video with their own sounds in one encode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import Any

from ffmpeg_ops.engine import film, inspect, output
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.clips.frames import Target, frames
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.mixing import mixer
from ffmpeg_ops.engine.mixing.voice import Sound
from ffmpeg_ops.engine.timeline.rates import exact_rate, sample_of
from ffmpeg_ops.operation import Work

_SOUND = "sound.w64"
_MIXED = 0.2  # the share of the work until the sounds are mixed
_MIN_RATE, _MAX_RATE = 1.0, 60.0  # frames a second
_SLACK = 2  # frames, for rounding in headers and edit lists


@dataclass(frozen=True)
class Piece:
    """A part of a clip."""

    #: The clip.
    clip: Clip
    #: Where the part begins in it, in seconds.
    start_s: float
    #: How many frames the part has in the video that is made.
    frames: int


def like(clip: Clip) -> Target:
    """The size in which a clip is shown, with square pixels and even sides, and its rate."""
    size = clip.shown_size
    inspect.require_size(replace(clip.stream, width=size[0], height=size[1]), clip.name)
    return Target(size, exact_rate(min(_MAX_RATE, max(_MIN_RATE, clip.rate))))


def splice(pieces: Sequence[Piece], target: Target, work: Work, encoding: Encoding) -> dict[str, Any]:
    """Make the output `video` of the pieces and return its stats.

    Every sound is exactly as long as its picture: cut, or followed by silence. Raises like `mixer.mix`, `frames` and
    `ladder.encode`.
    """
    begins = [0, *accumulate(piece.frames for piece in pieces)]
    sounds = list(_sounds(pieces, begins, target.rate))
    warnings, errors = list[str](), 0
    if sounds:
        mixing = replace(work, progress=lambda share: work.progress(_MIXED * share))
        mixed = mixer.mix(sounds, sample_of(begins[-1], target.rate), work.directory / _SOUND, mixing)
        warnings += mixed.warnings  # which name each damaged sound
    drawn = film.Film(target.size, target.rate, begins[-1], work.directory / _SOUND if sounds else None)
    encoding_work = replace(work, progress=lambda share: work.progress(_MIXED + (1 - _MIXED) * share))
    found: dict[int, tuple[int, int]] = {}
    made = film.encode(drawn, encoding_work, encoding, lambda: _frames(pieces, target, work, found))
    for number, piece in enumerate(pieces):
        decoded, damaged = found[number]
        errors += damaged
        if decoded + _SLACK < piece.frames:
            missing = f"{piece.frames - decoded} frames are missing at its end; the last one was repeated"
            warnings.append(f"{piece.clip.name}: {missing}")
    info = output.made(target.size, drawn.frames, drawn.length_s)
    return output.stats(work, made.stats, info, warnings=[*warnings, *made.warnings], errors=errors)


def _sounds(pieces: Sequence[Piece], begins: Sequence[int], rate: Fraction) -> Iterator[Sound]:
    for piece, first in zip(pieces, begins, strict=False):
        clip = piece.clip
        if clip.info.audio is not None:
            at = sample_of(first, rate)
            samples = sample_of(first + piece.frames, rate) - at
            yield Sound(
                clip.path, clip.info.audio, clip.name, at, samples, skip_s=piece.start_s, zero_s=clip.stream.start_s
            )


def _frames(pieces: Sequence[Piece], target: Target, work: Work, found: dict[int, tuple[int, int]]) -> Iterator[bytes]:
    """All raw frames; `found` gets how many of each piece could be decoded, and how many parts could not."""
    for number, piece in enumerate(pieces):
        reading = frames(piece.clip, target, start_s=piece.start_s, count=piece.frames, work=work)
        with reading as source:
            for frame in source:
                yield frame.tobytes()
            found[number] = source.decoded, source.errors


def target_of(first: Clip, size: tuple[int, int] | None, params: Mapping[str, Any]) -> Target:
    """The target that params ask for; what they leave open is as in the `first` clip."""
    own = like(first)
    wanted = params["frame_rate"]
    rate = own.rate if wanted is None else exact_rate(wanted)
    return Target(size or own.size, rate, params["fit"], params["background"])
