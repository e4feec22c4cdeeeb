"""What a rental has cost on a day."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.clock import DAY_MS
from gateway.domain.rentals import Rental, Stage

MIDNIGHT = 20_000 * DAY_MS
RENTAL = Rental("rent_1", "vast", Stage.BUSY, "label", MIDNIGHT, MIDNIGHT, MIDNIGHT, nano_per_s=10)


def test_traffic_counts_on_its_own_day_only() -> None:
    sent_at = MIDNIGHT - 3_600_000
    rental = replace(RENTAL, sent_at=sent_at).with_traffic(1_000, sent_at)
    assert rental.today_nano(MIDNIGHT - 1_000) == 3_599 * 10 + 1_000
    assert rental.today_nano(MIDNIGHT) == 0
    rental = rental.with_traffic(500, MIDNIGHT - 1).with_traffic(7, MIDNIGHT)
    assert rental.today_nano(MIDNIGHT + 1_000) == 10 + 7, "of yesterday nothing"
    assert rental.with_traffic(3, MIDNIGHT + 999).today_nano(MIDNIGHT + 1_000) == 10 + 10


@pytest.mark.parametrize("changes", [{"stage": Stage.NO_MACHINE}, {"sent_at": None}])
def test_what_was_never_rented_costs_nothing(changes: dict[str, object]) -> None:
    rental = replace(RENTAL, sent_at=MIDNIGHT).with_traffic(1_000, MIDNIGHT)
    assert replace(rental, **changes).today_nano(MIDNIGHT + 1_000) == 0  # type: ignore[arg-type]
