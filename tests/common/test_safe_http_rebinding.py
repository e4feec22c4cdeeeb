"""Host names that change their address between check and call, resolved by the C library through a real name server."""

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


def test_a_client_that_resolves_twice_is_led_to_a_private_address(world: dict[str, Any]) -> None:
    assert world["trap"] == [PUBLIC, "127.0.0.1"]


def test_the_name_server_was_asked(world: dict[str, Any]) -> None:
    asked = {look.partition(" ")[0].split(".")[1] for look in world["looks"] if look.count(".") == 3}
    assert asked == set(ANSWERS)
    assert sum(world["looks"].values()) > 100


def test_no_private_address_was_dialled_or_called(world: dict[str, Any]) -> None:
    assert set(world["dialled"]) <= {PUBLIC, SECOND}
    assert set(world["called"]) <= {PUBLIC, SECOND}
    assert sum(world["called"].values()) == sum(world["dialled"].values()) > 50


FLIPS = [name for name in ANSWERS if name.startswith("flips-to-") or name == "both-flip"]


@pytest.mark.parametrize("name", FLIPS)
def test_a_name_is_resolved_once_per_call_and_refused_once_it_is_private(name: str, world: dict[str, Any]) -> None:
    outcomes = world["outcomes"]
    for way in ("direct", "redirected", "posted"):  # one call each
        assert outcomes[f"{way} {name}"] == "fine"
    for way in ("twice", "to_itself", "resumed"):  # the second call is refused
        assert outcomes[f"{way} {name}"] == "ForbiddenUrl"


@pytest.mark.parametrize(("name", "outcome"), [("inside", "ForbiddenUrl"), ("six", "ForbiddenUrl"), ("public", "fine")])
def test_a_constant_name_has_the_same_outcome_in_every_way(name: str, outcome: str, world: dict[str, Any]) -> None:
    assert {what for way, what in world["outcomes"].items() if way.endswith(f" {name}")} == {outcome}


def test_there_was_no_other_outcome(world: dict[str, Any]) -> None:
    assert set(world["outcomes"].values()) == {"fine", "ForbiddenUrl"}
