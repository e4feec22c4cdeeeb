"""The camera stays inside the image, in the frame's shape, and moves as requested."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffmpeg_ops.engine.picture_params import EASINGS, MOTIONS
from ffmpeg_ops.engine.stills.camera import Box, Move

SIZE = (1920, 1080)
SMALL = (160, 90)


def test_the_zoom_goes_from_the_whole_to_its_end_in_equal_steps() -> None:
    boxes = Move().boxes((1920, 1080), SIZE, 25)
    zooms = [1920 / box.width for box in boxes]
    assert zooms[0] == 1 and zooms[-1] == pytest.approx(1.324)
    assert np.diff(zooms) == pytest.approx((1.324 - 1) / 24)
    back = Move("zoom_out").boxes((1920, 1080), SIZE, 25)
    assert [vars(box) for box in back] == [pytest.approx(vars(box)) for box in reversed(boxes)]


@pytest.mark.parametrize(("size", "box"), [((1000, 90), Box(420, 0, 160, 90)), ((160, 1000), Box(0, 455, 160, 90))])
def test_what_does_not_fit_is_cut_evenly_at_the_edges(size: tuple[int, int], box: Box) -> None:
    assert Move().boxes(size, SMALL, 1) == [box]


moves = st.builds(
    Move,
    st.sampled_from(MOTIONS),
    st.floats(1, 4),
    st.just((0.5, 0.5)) | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(EASINGS),
)


@given(moves, st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 40))
def test_no_move_ever_leaves_the_image(move: Move, width: int, height: int, count: int) -> None:
    boxes = move.boxes((width, height), SIZE, count)
    assert len(boxes) == count
    for box in boxes:
        assert box.left >= -1e-6 and box.top >= -1e-6
        assert box.left + box.width <= width + 1e-6 and box.top + box.height <= height + 1e-6
        assert box.width / box.height == pytest.approx(16 / 9)
        if move.motion.startswith("zoom") and move.focus == (0.5, 0.5):
            assert (box.left + box.width / 2, box.top + box.height / 2) == pytest.approx((width / 2, height / 2))


@pytest.mark.parametrize(
    ("motion", "axis", "direction"),
    [("pan_right", "left", 1), ("pan_left", "left", -1), ("pan_down", "top", 1), ("pan_up", "top", -1)],
)
def test_a_pan_goes_from_one_end_to_the_other(motion: str, axis: str, direction: int) -> None:
    boxes = Move(motion, amount=2).boxes((1600, 900), SIZE, 11)
    path = [getattr(box, axis) for box in boxes][::direction]
    assert path == pytest.approx(np.linspace(0, 800 if axis == "left" else 450, 11))


def test_a_zoom_goes_to_the_focus_and_no_motion_nowhere() -> None:
    assert len(set(Move("none").boxes((1000, 700), SIZE, 20))) == 1
    last = Move(amount=4, focus=(0, 1)).boxes((1600, 900), SIZE, 5)[-1]
    assert (last.left, last.top + last.height) == pytest.approx((0, 900))


@pytest.mark.parametrize("easing", EASINGS)
def test_every_easing_begins_and_ends_at_the_ends_and_never_turns_back(easing: str) -> None:
    widths = [box.width for box in Move(easing=easing).boxes((1600, 900), SIZE, 50)]
    assert (widths[0], widths[-1]) == pytest.approx((1600, 1600 / 1.324))
    assert all(np.diff(widths) <= 1e-9)
