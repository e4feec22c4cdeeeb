"""What traffic costs."""

from __future__ import annotations

import pytest

from gateway.domain.prices import TrafficPrice


@pytest.mark.parametrize(("down", "up", "nano"), [
    (0, 0, 0), (1, 0, 1), (10**9, 0, 2_000_000), (0, 10**9, 5_000_000), (5 * 10**8, 10**8, 1_500_000),
])  # fmt: skip
def test_traffic_costs_its_price_per_gb_rounded_up(down: int, up: int, nano: int) -> None:
    assert TrafficPrice(down=2_000_000, up=5_000_000).nano(down, up) == nano


def test_traffic_without_a_price_costs_nothing() -> None:
    assert TrafficPrice().nano(10**12, 10**12) == 0
