"""Who gets a place for a transfer."""

from __future__ import annotations

import pytest

from gateway.access.transfers import Transfers


def taken(transfers: Transfers, wanted: list[tuple[str, str | None]]) -> int:
    return sum(transfers.take(*who) for who in wanted)


def test_one_key_gets_half_from_wherever_it_comes() -> None:
    transfers = Transfers(8)
    assert taken(transfers, [("a", f"192.0.2.{n}") for n in range(8)]) == 4
    assert taken(transfers, [("a", None)] * 8) == 0
    assert taken(transfers, [("b", None)] * 8) == 4


def test_one_address_gets_half_with_whatever_keys() -> None:
    transfers = Transfers(8)
    assert taken(transfers, [(f"key_{n}", "192.0.2.1") for n in range(8)]) == 4
    assert transfers.take("another", "192.0.2.2")


def test_all_clients_together_leave_places_for_workers() -> None:
    transfers = Transfers(8)
    assert taken(transfers, [(f"key_{n}", f"192.0.2.{n}") for n in range(20)]) == 6
    assert taken(transfers, [(f"key_{n}", None) for n in range(20)]) == 2


@pytest.mark.parametrize("places", [1, 2, 3, 4, 64])
def test_every_kind_gets_a_place(places: int) -> None:
    transfers = Transfers(places)
    for client in ("192.0.2.1", None):
        with transfers.held("a", client) as place:
            assert place
    assert transfers._all == transfers._clients == 0
    assert not transfers._held


def test_a_place_is_given_back_once_and_only_by_its_holder() -> None:
    transfers = Transfers(2)
    with pytest.raises(RuntimeError), transfers.held("a") as first:
        assert first
        with transfers.held("a") as second:
            assert not second
        assert not transfers.take("a")
        raise RuntimeError
    assert transfers.take("a")
