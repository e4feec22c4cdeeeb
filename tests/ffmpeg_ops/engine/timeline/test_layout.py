"""ffmpeg_ops.engine.timeline.layout: every rule of how long a scene lasts, then what holds for any film."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ffmpeg_ops.engine.timeline.layout import Scene, Span, Timeline, lay_out
from ffmpeg_ops.engine.timeline.rates import exact_rate, exact_s
from wire.errors import InvalidParams

MAX_S = 900
STILL: dict[str, float] = {}


def scene(**times: float) -> Scene:
    return Scene(**{name: exact_s(value) for name, value in times.items()})


def laid(*scenes: dict[str, float], rate: float = 10, tail: float = 0, narration: float | None = None) -> Timeline:
    end = None if narration is None else exact_s(narration)
    made = [scene(**times) for times in scenes]
    return lay_out(made, exact_rate(float(rate)), tail=exact_s(tail), narration_end=end, max_s=Fraction(MAX_S))


def seconds(*scenes: dict[str, float], **film: Any) -> list[float]:
    """How long the scenes last at ten frames a second."""
    return [span.frames / 10 for span in laid(*scenes, **film).spans]


def refusal(*scenes: dict[str, float], **film: Any) -> str:
    with pytest.raises(InvalidParams) as caught:
        laid(*scenes, **film)
    return caught.value.message


# --- how long a scene lasts ------------------------------------------------------------------------------------------


def test_a_set_duration_is_fixed() -> None:
    fixed = {"duration": 3}
    others = [{**fixed, "clip": 9}, {**fixed, "clip": 1}, {**fixed, "narration_end": 2}]
    assert seconds(fixed, *others, narration=8) == [3, 3, 3, 3]


def test_a_narration_gives_its_scene_its_length_and_a_pause_follows() -> None:
    assert seconds({"narration_end": 2.5}, {"narration_end": 2.5, "pause_after": 0.5}) == [2.5, 3]
    assert seconds({"narration_end": 2.5, "clip": 9}, {"narration_end": 2.5, "clip": 1}) == [2.5, 2.5]


def test_a_clip_lasts_as_long_as_what_it_has_left() -> None:
    assert seconds({"clip": 7.3}) == [7.3]


def test_stills_last_five_seconds() -> None:
    assert seconds(STILL, {"clip": 2}, STILL) == [5, 2, 5]


def test_stills_share_what_the_narration_of_the_film_leaves() -> None:
    assert seconds(STILL, STILL, STILL, narration=12) == [4, 4, 4]
    assert seconds(STILL, {"duration": 2}, STILL, {"clip": 3}, {"narration_end": 1}, narration=12) == [3, 2, 3, 3, 1]


def test_a_still_lasts_at_least_a_second() -> None:
    assert seconds(STILL, STILL, narration=1) == [1, 1]
    assert seconds({"duration": 10}, STILL, narration=9) == [10, 1]


def test_the_last_scene_without_a_duration_grows_until_the_narration_of_the_film_ends() -> None:
    assert seconds({"clip": 2}, {"clip": 2}, narration=10) == [2, 8]
    assert seconds({"clip": 2}, {"narration_end": 2}, {"duration": 3}, narration=10) == [2, 5, 3]
    assert seconds({"clip": 6}, {"clip": 6}, narration=10) == [6, 6], "a shorter narration shortens nothing"


def test_the_tail_is_added_to_the_last_scene_without_a_duration() -> None:
    assert seconds(STILL, STILL, tail=1.5) == [5, 6.5]
    assert seconds({"narration_end": 2}, {"duration": 3}, tail=1) == [3, 3]
    assert seconds({"clip": 2}, {"clip": 2}, narration=10, tail=1) == [2, 9], "after the narration"
    assert seconds(STILL, STILL, narration=10, tail=1) == [5, 6], "and it is not shared"


def test_sums_of_decimal_numbers_are_exact() -> None:
    """Nine times 0.1 is 0.8999… as floats, and 13.49… frames instead of 13.5."""
    assert laid(*[{"duration": 0.1}] * 9, rate=15).frames == laid({"duration": 0.9}, rate=15).frames == 14
    assert laid(*[{"duration": 0.7}] * 3, rate=5).frames == laid({"duration": 2.1}, rate=5).frames == 11
    assert laid({"duration": 0.1 + 0.2}, rate=25).frames == laid({"duration": 0.3}, rate=25).frames == 8


def test_broadcast_rates_count_by_their_exact_fraction() -> None:
    film = laid(*[{"duration": 1}] * 100, rate=29.97)
    assert (film.rate, film.frames, film.samples) == (Fraction(30000, 1001), 2997, 4799995)
    assert film.length_s == pytest.approx(99.9999)


def test_a_scene_has_at_least_one_frame_and_the_others_make_up_for_it() -> None:
    film = laid({"duration": 0.001}, {"duration": 0.001}, {"duration": 1}, rate=10)
    assert [(span.first, span.frames) for span in film.spans] == [(0, 1), (1, 1), (2, 8)]


# --- transitions -----------------------------------------------------------------------------------------------------


def test_a_transition_overlaps_inside_its_scene_while_the_one_before_plays_on() -> None:
    film = laid({"duration": 2}, {"duration": 3, "transition": 0.5}, {"duration": 2, "transition": 1})
    assert film.spans == (Span(0, 20, 0, 5), Span(20, 30, 5, 10), Span(50, 20, 10, 0))


def test_the_first_scene_may_come_in_from_black() -> None:
    assert laid({"duration": 2, "transition": 0.5}).spans == (Span(0, 20, 5, 0),)


def test_a_transition_may_take_all_of_a_scene() -> None:
    film = laid({"duration": 0.7}, {"duration": 0.75, "transition": 0.7}, {"duration": 0.3, "transition": 0.3})
    assert [(span.frames, span.transition) for span in film.spans] == [(7, 0), (8, 7), (3, 3)]


def test_a_transition_has_no_more_frames_than_its_scenes() -> None:
    """2.5 frames are rounded up to 3, but the scene from 7.5 to 10 has only 2."""
    film = laid({"duration": 0.75}, {"duration": 0.25, "transition": 0.25}, {"duration": 1, "transition": 0.25})
    assert [(span.frames, span.transition) for span in film.spans] == [(8, 0), (2, 2), (10, 2)]


# --- contradictions: each error names its path and both lengths ------------------------------------------------------


@pytest.mark.parametrize(
    ("scenes", "film", "path", "lengths"),
    [
        ([{"duration": 3, "narration_end": 3.5}], {}, "scenes[0].narration", ("3.5 s", "3 s")),
        ([STILL, {"duration": 3, "narration_end": 2.5, "pause_after": 1}], {}, "scenes[1].pause_after", ("3.5 s", "3 s")),
        ([STILL, {"pause_after": 1}], {}, "scenes[1].pause_after", ()),
        ([{"clip": 3, "pause_after": 1}], {}, "scenes[0].pause_after", ()),
        ([{"duration": 3}, {"duration": 4}], {"narration": 7.25}, "narration", ("7.25 s", "7 s")),
        ([{"duration": 3}, {"duration": 4}], {"tail": 1}, "tail", ("1 s", "7 s")),
        ([STILL, STILL, {"clip": 1, "transition": 1.5}], {}, "scenes[2].transition.duration", ("1.5 s", "its scene only 1 s")),
        ([{"clip": 1}, {"transition": 1.5}], {}, "scenes[1].transition.duration", ("1.5 s", "scenes[0] before it only 1 s")),
        ([{"clip": 1, "transition": 1.5}], {}, "scenes[0].transition.duration", ("1.5 s", "1 s")),
        ([STILL] * 181, {}, "scenes", ("905 s", "900 s")),
        ([STILL], {"narration": 901}, "scenes", ("901 s", "900 s")),
        ([{"clip": 900}], {"tail": 0.1}, "scenes", ("900.1 s", "900 s")),
        ([{"duration": 0.001}] * 9001, {}, "scenes", ("900.1 s", "900 s")),
    ],
)  # fmt: skip
def test_contradictory_times_are_refused(
    scenes: list[dict[str, float]], film: dict[str, float], path: str, lengths: tuple[str, ...]
) -> None:
    message = refusal(*scenes, **film)
    assert message.startswith(f"{path}: ")
    assert [length for length in lengths if length not in message] == []


def test_a_transition_is_held_against_what_a_scene_lasts_in_the_end() -> None:
    """A clip of a second grows with the film's narration, or with its tail."""
    for film in ({"narration": 4}, {"tail": 2}):
        assert laid({"clip": 2}, {"clip": 1, "transition": 1.5}, **film).spans[1].transition == 15


def test_less_than_half_a_frame_is_no_contradiction() -> None:
    """MP3s are longer than was meant, and times are rounded by those who write them."""
    assert seconds({"duration": 3.02, "narration_end": 3.024}, {"narration_end": 0.999, "transition": 1}) == [3, 1]
    assert seconds({"duration": 3, "narration_end": 2.5, "pause_after": 0.504}, narration=3.02) == [3]
    assert "3.051 s" in refusal({"duration": 3, "narration_end": 3.051})


def test_the_longest_film() -> None:
    assert laid(*[STILL] * 180, rate=29.97).frames == 26973


# --- any film --------------------------------------------------------------------------------------------------------

RATES = st.one_of(st.integers(1, 60).map(float), st.sampled_from([23.976, 29.97, 59.94, 12.5]), st.floats(1, 60))
TIMES = st.integers(1, 20_000).map(lambda ms: Fraction(ms, 1000))
SOME = st.none() | TIMES


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    duration, narration = draw(SOME), draw(SOME)
    if duration is not None and narration is not None:
        narration = min(narration, duration)
    pause = draw(TIMES) if narration is not None and duration is None and draw(st.booleans()) else Fraction(0)
    transition = draw(st.just(Fraction(0)) | TIMES.map(lambda length: length / 10))
    return Scene(duration, narration, pause, draw(SOME), transition)


FILMS = st.lists(scenes(), min_size=1, max_size=30)


def of_any(film: list[Scene], rate: float, narration: Fraction | None, tail: Fraction) -> Timeline:
    """A film, or the end of the example where its times contradict each other."""
    try:
        return lay_out(film, exact_rate(rate), tail=tail, narration_end=narration, max_s=Fraction(MAX_S))
    except InvalidParams as error:
        assert error.message.split(": ")[0].split("[")[0] in {"scenes", "narration", "tail"}
        assume(False)
        raise


@given(FILMS, RATES, SOME, st.just(Fraction(0)) | TIMES)
def test_the_scenes_of_any_film_join_without_a_gap(
    film: list[Scene], rate: float, narration: Fraction | None, tail: Fraction
) -> None:
    made = of_any(film, rate, narration, tail)
    assert len(made.spans) == len(film) and all(span.frames >= 1 for span in made.spans)
    assert [span.first for span in made.spans] == list(accumulate((s.frames for s in made.spans), initial=0))[:-1]
    assert made.frames == sum(span.frames for span in made.spans)
    assert abs(made.samples - made.frames * 48000 / made.rate) <= Fraction(1, 2)
    assert narration is None or made.frames >= narration * made.rate - 1, "the narration is heard to its end"


@given(FILMS, RATES)
def test_boundaries_never_drift_from_the_sum_of_the_durations(film: list[Scene], rate: float) -> None:
    film = [replace(one, duration=max(one.duration or one.clip or Fraction(3), Fraction(2))) for one in film]
    film = [replace(one, narration_end=None, pause_after=Fraction(0)) for one in film]
    made = lay_out(film, exact_rate(rate), max_s=Fraction(MAX_S))
    ends = accumulate(one.duration or 0 for one in film)
    expected = [math.floor(end * made.rate + Fraction(1, 2)) for end in ends]
    assert [span.first + span.frames for span in made.spans] == expected


@given(FILMS, RATES, SOME, st.just(Fraction(0)) | TIMES)
def test_transitions_never_change_a_boundary(
    film: list[Scene], rate: float, narration: Fraction | None, tail: Fraction
) -> None:
    made = of_any(film, rate, narration, tail)
    plain = of_any([replace(one, transition=Fraction(0)) for one in film], rate, narration, tail)
    assert [(s.first, s.frames) for s in made.spans] == [(s.first, s.frames) for s in plain.spans]
    for number, span in enumerate(made.spans):
        assert 0 <= span.transition <= min(s.frames for s in made.spans[max(0, number - 1) : number + 1])
        assert span.overrun == (made.spans[number + 1].transition if number + 1 < len(film) else 0)
        assert abs(span.transition - film[number].transition * made.rate) <= 1


@given(FILMS, RATES, SOME)
def test_set_durations_and_narrations_are_kept_to_the_frame(
    film: list[Scene], rate: float, narration: Fraction | None
) -> None:
    assume(film[-1].duration is None)
    made = of_any(film, rate, narration, Fraction(0))
    for one, span in zip(film[:-1], made.spans, strict=False):
        own = one.duration or (one.narration_end + one.pause_after if one.narration_end else one.clip)
        if own is not None and own * made.rate >= 1 and not squeezed(made):
            assert abs(span.frames - own * made.rate) <= 1


def squeezed(made: Timeline) -> bool:
    """Whether a scene has just one frame: it may have taken what others lack."""
    return any(span.frames == 1 for span in made.spans)
