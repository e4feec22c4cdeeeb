"""Decides how long every scene of a film lasts, and on which frames it is seen.

A `duration` that is set is fixed. Otherwise a scene lasts as long as its narration and the pause after it, else as its
clip. The remaining scenes share equally what the film's narration leaves of the others. What the film's narration still
needs, and the film's tail, is added to the last scene without a `duration`.

Lengths that differ by less than half a frame count as equal: a narration of 3.024 seconds fits a scene of 3.02.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

from ffmpeg_ops.engine.timeline import rates
from wire.errors import InvalidParams

DEFAULT_S = Fraction(5)
MIN_SHARE_S = Fraction(1)


@dataclass(frozen=True)
class Scene:
    """One scene and what was found out about its files. Times are exact, in seconds, and not negative."""

    #: The length that was asked for, None where it follows from the rest.
    duration: Fraction | None = None
    #: When its narration ends, in time of the scene; None without one.
    narration_end: Fraction | None = None
    #: Silence after its narration.
    pause_after: Fraction = Fraction(0)
    #: What its clip has left from its `start`; None without one.
    clip: Fraction | None = None
    #: How long its transition takes, 0 without one.
    transition: Fraction = Fraction(0)


@dataclass(frozen=True)
class Span:
    """Where one scene is seen in the film."""

    #: Its first frame in the film.
    first: int
    #: How many frames it has, at least one.
    frames: int
    #: For how many of them it comes in; the scene before it is still seen.
    transition: int
    #: How many frames it plays on after its end, while the next scene comes in.
    overrun: int


@dataclass(frozen=True)
class Timeline:
    """Where every scene of a film is."""

    #: Frames a second.
    rate: Fraction
    #: One for every scene; each begins where the one before it ends.
    spans: tuple[Span, ...]

    @property
    def frames(self) -> int:
        """How many frames the film has."""
        return self.spans[-1].first + self.spans[-1].frames

    @property
    def samples(self) -> int:
        """How many samples its sound has."""
        return self.sample_of(self.frames)

    @property
    def length_s(self) -> float:
        """How long it lasts, in seconds."""
        return float(self.frames / self.rate)

    def sample_of(self, frame: int) -> int:
        """The sample at which a frame begins."""
        return rates.sample_of(frame, self.rate)


def lay_out(
    scenes: Sequence[Scene],
    rate: Fraction,
    *,
    tail: Fraction = Fraction(0),
    narration_end: Fraction | None = None,
    max_s: Fraction,
) -> Timeline:
    """Lay out at least one scene at a rate of frames.

    `tail` is how long the film goes on after its content, `narration_end` when the narration of the whole film ends,
    `max_s` how long the film may be, all in seconds.

    Raises InvalidParams, with the path of the param and both lengths, for times that contradict each other.
    """
    slack_s = 1 / rate / 2
    for number, scene in enumerate(scenes):
        _check_narration(scene, f"scenes[{number}]", slack_s)
    lengths = _lengths(scenes, tail, narration_end, slack_s)
    for number, scene in enumerate(scenes):
        _check_transition(scene, number, lengths, slack_s)
    frames = _frames(lengths, rate)
    if sum(frames) > rates.frame_count(max_s, rate):
        raise InvalidParams(
            f"scenes: the film would last {_text(sum(frames) / rate)}, at most {_text(max_s)} are allowed."
        )
    incoming = [
        min(rates.frame_count(scene.transition, rate), *frames[max(0, number - 1) : number + 1])
        for number, scene in enumerate(scenes)
    ]
    firsts = accumulate(frames, initial=0)
    return Timeline(rate, tuple(map(Span, firsts, frames, incoming, [*incoming[1:], 0])))


def _check_narration(scene: Scene, path: str, slack_s: Fraction) -> None:
    """Raise InvalidParams for a narration that its scene is too short for, and for a pause after none."""
    if scene.narration_end is None:
        if scene.pause_after:
            raise InvalidParams(f"{path}.pause_after: the scene has no narration to pause after; set duration.")
        return
    if scene.duration is None:
        return
    if scene.narration_end > scene.duration + slack_s:
        ends = f"it ends after {_text(scene.narration_end)}"
        raise InvalidParams(f"{path}.narration: {ends}, but the scene's duration is {_text(scene.duration)}.")
    if scene.pause_after and scene.narration_end + scene.pause_after > scene.duration + slack_s:
        ends = f"narration and pause end after {_text(scene.narration_end + scene.pause_after)}"
        raise InvalidParams(f"{path}.pause_after: {ends}, but the scene's duration is {_text(scene.duration)}.")


def _lengths(
    scenes: Sequence[Scene], tail: Fraction, narration_end: Fraction | None, slack_s: Fraction
) -> list[Fraction]:
    """The exact length of every scene, in seconds. Raises InvalidParams where no scene may grow."""
    own = [_own_length(scene) for scene in scenes]
    share = DEFAULT_S
    if narration_end is not None and None in own:
        left = narration_end - sum(length for length in own if length is not None)
        share = max(MIN_SHARE_S, left / own.count(None))
    lengths = [share if length is None else length for length in own]
    missing = max(Fraction(0), (narration_end or Fraction(0)) - sum(lengths))
    growing = max((number for number, scene in enumerate(scenes) if scene.duration is None), default=None)
    if growing is not None:
        lengths[growing] += missing + tail
        return lengths
    together = f"all scenes have a duration, {_text(sum(lengths))} together"
    if narration_end is not None and missing > slack_s:
        raise InvalidParams(f"narration: it ends after {_text(narration_end)}, but {together}.")
    if tail:
        raise InvalidParams(f"tail: no scene can last {_text(tail)} longer, because {together}.")
    return lengths


def _own_length(scene: Scene) -> Fraction | None:
    """How long a scene lasts by itself; None where nothing says so."""
    if scene.duration is not None:
        return scene.duration
    if scene.narration_end is not None:
        return scene.narration_end + scene.pause_after
    return scene.clip


def _check_transition(scene: Scene, number: int, lengths: Sequence[Fraction], slack_s: Fraction) -> None:
    """Raise InvalidParams for a transition that is longer than its scene or the one before it."""
    for other in range(max(0, number - 1), number + 1):
        if scene.transition > lengths[other] + slack_s:
            which = "its scene" if other == number else f"scenes[{other}] before it"
            lasts = f"it lasts {_text(scene.transition)}"
            raise InvalidParams(
                f"scenes[{number}].transition.duration: {lasts}, but {which} only {_text(lengths[other])}."
            )


def _frames(lengths: Sequence[Fraction], rate: Fraction) -> list[int]:
    """How many frames every scene has, at least one. No rounding adds up: only sums are rounded."""
    boundaries = [0]
    for end in accumulate(lengths):
        boundaries.append(max(boundaries[-1] + 1, rates.frame_count(end, rate)))
    return [end - start for start, end in pairwise(boundaries)]


def _text(seconds: Fraction | int) -> str:
    return f"{float(seconds):.3f}".rstrip("0").rstrip(".") + " s"
