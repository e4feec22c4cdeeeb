"""`place`, `area`, `video_box`, `times`: where overlays are, and when."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffmpeg_ops.engine.overlays import placement
from ffmpeg_ops.engine.overlays.params import OverlayParams
from ffmpeg_ops.engine.overlays.placement import area, fitted, picture_box, place, times, video_box
from ffmpeg_ops.engine.subtitles.style import POSITIONS
from wire.errors import InvalidParams

TALL, WIDE = (1080, 1920), (1920, 1080)
FRAMES = [TALL, WIDE, (1080, 1080), (1080, 1350), (16, 16)]
PATH = "overlays[0]"


def params(**given: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = OverlayParams().load({"url_image": "https://example.com/a.png", **given})
    return loaded


def box(given: dict[str, Any], shape: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a picture."""
    size = fitted(shape, picture_box(given, frame))
    x, y = place(given, frame, size).corner(size)
    return x, y, x + size[0], y + size[1]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("frame", [TALL, WIDE])
@pytest.mark.parametrize("safe", [False, True])
def test_every_position_keeps_to_its_edges(position: str, frame: tuple[int, int], safe: bool) -> None:
    given = params(position=position, safe_area=safe, width=0.2)
    left, top, right, bottom = box(given, (300, 200), frame)
    within = area(given, frame)
    row, column = position.split("-")
    assert {"left": left == within.left, "right": right == within.right}.get(column, True)
    assert {"top": top == within.top, "bottom": bottom == within.bottom}.get(row, True)
    if column == "center":
        assert left - within.left == pytest.approx(within.right - right, abs=1)
    if row == "middle":
        assert top - within.top == pytest.approx(within.bottom - bottom, abs=1)
    assert right - left == round(0.2 * frame[0])


def test_the_safe_area_is_free_of_buttons_in_tall_frames_only() -> None:
    """What TikTok, Reels and Shorts draw over 1080x1920: names above, texts below, buttons on the right."""
    safe = area(params(safe_area=True), TALL)
    assert safe.top >= 220 and TALL[1] - safe.bottom >= 370 and TALL[0] - safe.right >= 130 and safe.left >= 60
    for frame in (WIDE, (1080, 1080), (1080, 1350)):
        assert area(params(safe_area=True), frame) == area(params(), frame)


@given(
    frame=st.sampled_from(FRAMES),
    shape=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    width=st.floats(0.01, 1),
    margin=st.floats(0, 0.4),
    position=st.sampled_from(sorted(POSITIONS)),
    safe=st.booleans(),
)
def test_a_named_position_lies_inside_the_frame(
    frame: tuple[int, int], shape: tuple[int, int], width: float, margin: float, position: str, safe: bool
) -> None:
    """Also pictures much higher than wide, and margins that leave no room."""
    given = params(width=width, margin=margin, position=position, safe_area=safe)
    left, top, right, bottom = box(given, shape, frame)
    assert 0 <= left < right <= frame[0] and 0 <= top < bottom <= frame[1]
    video = video_box({**given, "safe_area": safe}, shape, frame)
    assert all(side % 2 == 0 for side in video)
    assert video[0] + video[2] <= frame[0] and video[1] + video[3] <= frame[1] and min(video[2:]) >= 2


def test_a_picture_of_the_frames_shape_and_full_width_covers_it() -> None:
    assert box(params(width=1), (540, 960), TALL) == (0, 0, *TALL)
    assert video_box(params(width=1, position="bottom-right"), (1080, 1920), TALL) == (0, 0, *TALL)


def test_a_picture_keeps_its_shape_and_is_never_higher_than_the_frame() -> None:
    assert fitted((400, 300), picture_box(params(width=0.5), WIDE)) == (960, 720)
    assert fitted((100, 1000), picture_box(params(width=0.5), WIDE)) == (108, 1080)


def test_x_and_y_place_the_middle_and_may_leave_the_frame() -> None:
    assert box(params(x=0, y=1, width=0.1), (100, 100), (1000, 1000)) == (-50, 950, 50, 1050)
    assert box(params(x=0.5, y=0.25, width=0.1), (100, 100), (1000, 1000)) == (450, 200, 550, 300)
    _, top, right, _ = box(params(x=1, y=0, width=0.1, safe_area=True), (100, 100), TALL)
    within = area(params(safe_area=True), TALL)
    assert (right, top) == (within.right, within.top)


@pytest.mark.parametrize(("rate", "first", "end"), [(Fraction(30), 15, 60), (Fraction(30000, 1001), 15, 60)])
def test_an_overlay_is_shown_from_start_to_end(rate: Fraction, first: int, end: int) -> None:
    """Its edges are rounded to frames like those of scenes."""
    shown = times(params(start=0.5, end=2, opacity=0.7), PATH, 90, rate)
    assert [k for k in range(120) if shown.opacity_at(k)] == list(range(first, end))
    assert {shown.opacity_at(k) for k in range(first, end)} == {0.7}


def test_what_has_no_end_stays_under_the_next_transition() -> None:
    assert times(params(), PATH, 30, Fraction(30)).opacity_at(45) == 1
    assert times(params(end=99), PATH, 30, Fraction(30)).opacity_at(45) == 1
    assert times(params(fade=0.5), PATH, 30, Fraction(30)).opacity_at(30) == 0


def test_a_fade_rises_and_falls_evenly() -> None:
    shown = times(params(fade=0.2, end=1), PATH, 60, Fraction(30))
    seen = [round(shown.opacity_at(k) * 12) for k in range(32)]
    assert seen == [1, 3, 5, 7, 9, 11, *[12] * 18, 11, 9, 7, 5, 3, 1, 0, 0]
    short = times(params(fade=10, end=0.5), PATH, 60, Fraction(30))
    assert [short.opacity_at(k) for k in range(15)] == [short.opacity_at(14 - k) for k in range(15)]


def test_an_overlay_outside_its_scene_is_refused_by_path_with_both_times() -> None:
    with pytest.raises(InvalidParams, match=r"^scenes\[1\]\.overlays\[0\]\.start: 5 s is not before .* at 1\.5 s\.$"):
        times(params(start=5), "scenes[1].overlays[0]", 45, Fraction(30))


def test_an_overlay_of_no_length_is_seen_for_a_frame() -> None:
    shown = times(params(start=0.5, end=0.501), PATH, 60, Fraction(30))
    assert [k for k in range(60) if shown.opacity_at(k)] == [15]


def test_the_keypad_of_libass_is_followed() -> None:
    for position, number in POSITIONS.items():
        assert place(params(position=position, margin=0), WIDE).alignment == number
    assert placement.Place(0, 0, 1, 1).alignment == 5
