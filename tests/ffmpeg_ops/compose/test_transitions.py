from __future__ import annotations

import numpy as np
import pytest

from ffmpeg_ops.compose.params import TRANSITIONS
from ffmpeg_ops.compose.transitions import between, faded
from ffmpeg_ops.engine.i420 import Frame, blank, planes

SIZE = (64, 48)
RED, BLUE, BLACK = blank(SIZE, "#C02020"), blank(SIZE, "#2020C0"), blank(SIZE)
MOVING = [kind for kind in TRANSITIONS if kind.startswith("slide")]


def textured(seed: int) -> Frame:
    """A frame in which every sample is known and differs from its neighbours."""
    return np.random.default_rng(seed).integers(16, 235, (SIZE[1] * 3 // 2, SIZE[0]), np.uint8)


def same(plane: np.ndarray, other: np.ndarray) -> bool:
    return bool((plane == other).all())


@pytest.mark.parametrize("kind", TRANSITIONS)
def test_a_transition_begins_with_the_old_scene_and_ends_with_the_new_one(kind: str) -> None:
    old, new = textured(1), textured(2)
    before = old.copy(), new.copy()
    assert same(between(kind, old, new, 0.0), old)
    assert same(between(kind, old, new, 1.0), new)
    between(kind, old, new, 0.4)
    assert same(old, before[0]), "frames may be shared, so nothing is written into them"
    assert same(new, before[1])


def test_a_fade_goes_through_black() -> None:
    assert same(between("fade", RED, BLUE, 0.5), BLACK)
    quarter, last = between("fade", RED, BLUE, 0.25), between("fade", RED, BLUE, 0.75)
    for plane, whole, black in zip(planes(quarter), planes(RED), planes(BLACK), strict=True):
        assert abs(int(plane[0, 0]) - (int(whole[0, 0]) + int(black[0, 0])) / 2) <= 0.5
    for plane, whole, black in zip(planes(last), planes(BLUE), planes(BLACK), strict=True):
        assert abs(int(plane[0, 0]) - (int(whole[0, 0]) + int(black[0, 0])) / 2) <= 0.5


def test_a_film_begins_in_black() -> None:
    assert same(between("fade", None, RED, 0.0), BLACK)
    assert same(between("fade", None, RED, 1.0), RED)


def test_a_crossfade_mixes_both() -> None:
    for plane, old, new in zip(*map(planes, (between("crossfade", RED, BLUE, 0.25), RED, BLUE)), strict=True):
        assert abs(int(plane[0, 0]) - (0.75 * int(old[0, 0]) + 0.25 * int(new[0, 0]))) <= 0.5


@pytest.mark.parametrize("kind", MOVING)
def test_a_slide_moves_both_scenes_in_its_direction(kind: str) -> None:
    """Half-way, the half of the old scene that is left lies beside that half of the new one which came first."""
    old, new = textured(1), textured(2)
    for plane, was, comes in zip(*map(planes, (between(kind, old, new, 0.5), old, new)), strict=True):
        middle_y, middle_x = plane.shape[0] // 2, plane.shape[1] // 2
        first, second = (was, comes) if kind in {"slide_left", "slide_up"} else (comes, was)
        if kind in {"slide_left", "slide_right"}:
            assert same(plane[:, :middle_x], first[:, middle_x:])
            assert same(plane[:, middle_x:], second[:, :middle_x])
        else:
            assert same(plane[:middle_y], first[middle_y:])
            assert same(plane[middle_y:], second[:middle_y])


@pytest.mark.parametrize("kind", MOVING)
def test_a_slide_only_goes_forward_and_leaves_no_gap(kind: str) -> None:
    moved = [
        int((planes(between(kind, blank(SIZE, "#FFFFFF"), blank(SIZE, "#808080"), t))[0] != 235).sum())
        for t in np.linspace(0, 1, 41)
    ]
    assert moved == sorted(moved)
    assert (moved[0], moved[-1]) == (0, SIZE[0] * SIZE[1])
    assert len(set(moved)) > 20


def test_a_wipe_uncovers_the_new_scene_from_the_left() -> None:
    old, new = textured(1), textured(2)
    for plane, was, comes in zip(*map(planes, (between("wipe", old, new, 0.25), old, new)), strict=True):
        edge = plane.shape[1] // 4
        assert same(plane[:, :edge], comes[:, :edge])
        assert same(plane[:, edge:], was[:, edge:])


def test_light_is_taken_from_luma_and_colour_alike() -> None:
    assert same(faded(RED, 1.0), RED)
    assert same(faded(RED, 0.0), BLACK)
    assert planes(faded(RED, 0.5))[2][0, 0] == round((int(planes(RED)[2][0, 0]) + 128) / 2)
