"""Names that change their address between the check and the call, asked of a real name server by the C library."""

from __future__ import annotations

from typing import Any

import pytest

from tests.common.rebinding import ANSWERS, PUBLIC, SECOND, in_a_world


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    try:
        return in_a_world()
    except LookupError as error:
        pytest.skip(f"no network of our own can be made here: {error}")


def test_who_checks_first_and_calls_then_is_led_inside(world: dict[str, Any]) -> None:
    assert world["trap"] == [PUBLIC, "127.0.0.1"]


def test_the_names_were_really_asked_for(world: dict[str, Any]) -> None:
    asked = {look.partition(" ")[0].split(".")[1] for look in world["looks"] if look.count(".") == 3}
    assert asked == set(ANSWERS)
    assert sum(world["looks"].values()) > 100


def test_no_inside_address_was_dialled_or_called(world: dict[str, Any]) -> None:
    assert set(world["dialled"]) <= {PUBLIC, SECOND}
    assert set(world["called"]) <= {PUBLIC, SECOND}
    assert sum(world["called"].values()) == sum(world["dialled"].values()) > 50


FLIPS = [name for name in ANSWERS if name.startswith("flips-to-") or name == "both-flip"]


@pytest.mark.parametrize("name", FLIPS)
def test_a_name_is_looked_up_once_for_each_call_and_refused_once_it_is_inside(name: str, world: dict[str, Any]) -> None:
    outcomes = world["outcomes"]
    for way in ("direct", "redirected", "posted"):  # one call each
        assert outcomes[f"{way} {name}"] == "fine"
    for way in ("twice", "to_itself", "resumed"):  # the second call is refused
        assert outcomes[f"{way} {name}"] == "ForbiddenUrl"


@pytest.mark.parametrize("name", ["inside", "six"])
def test_a_name_that_is_inside_is_refused_in_every_way(name: str, world: dict[str, Any]) -> None:
    assert {what for way, what in world["outcomes"].items() if way.endswith(f" {name}")} == {"ForbiddenUrl"}


def test_a_public_name_is_called_in_every_way(world: dict[str, Any]) -> None:
    assert {what for way, what in world["outcomes"].items() if way.endswith(" public")} == {"fine"}


def test_nothing_else_came_of_any_of_them(world: dict[str, Any]) -> None:
    assert set(world["outcomes"].values()) == {"fine", "ForbiddenUrl"}
