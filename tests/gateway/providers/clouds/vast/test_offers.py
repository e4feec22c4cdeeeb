"""Which offers are rented: checked here, because Vast.ai does not always filter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gateway.providers.clouds.vast.offers import generation, query, usable
from gateway.providers.clouds.vast.settings import VastSettings
from tests.emulators.vast import market, offer
from tests.emulators.vast.market import FIT, SHARES, found

SETTINGS = VastSettings()


@pytest.mark.parametrize(("encoder", "gpus"), [
    (7, "RTX 2060, RTX 2080 Ti, RTX 3090 Ti, RTX A2000, RTX A6000, Tesla T4, A10, A16, A40"),
    (8, "RTX 4060 Ti, RTX 4070S Ti, RTX 4090D, RTX 6000Ada, RTX 5880 Ada, L4, L40, L40S"),
    (9, "RTX 5090, RTX 5070 Ti, RTX PRO 6000 WS"),
    (None, "A100 SXM4, A100 PCIE, A800 PCIE, A30, H100 SXM, H100 NVL, H200, GH200 SXM, B200, B300"),
    (None, "GTX 1080 Ti, Tesla V100, RX 7900 XTX, "),
])  # fmt: skip
def test_only_chips_with_an_encoder(encoder: int | None, gpus: str) -> None:
    assert {generation(gpu) for gpu in gpus.split(", ")} == {encoder}


def test_cost_takes_the_cheapest_speed_the_newest_encoder() -> None:
    rows = market()
    cost = usable(rows, SETTINGS)
    assert Counter(one.gpu for one in cost) == {gpu: len(SHARES) for gpu, _, _ in FIT}
    assert [one.price_nano for one in cost] == sorted(one.price_nano for one in cost)
    assert cost[0].nano_per_s == 22_223  # 8 cents an hour
    speed = usable(rows, VastSettings(offer_order="speed"))
    assert (speed[0].gpu, generation(speed[-1].gpu)) == ("RTX 5090", 7)


def test_what_vast_filters_and_what_we_do_are_one() -> None:
    rows = market()
    answered = found(rows, query(SETTINGS))
    assert [row["dph_total"] for row in answered] == sorted(row["dph_total"] for row in answered)
    with_encoder = {row["id"] for row in answered if generation(row["gpu_name"])}
    assert {one.id for one in usable(answered, SETTINGS)} == with_encoder


@pytest.mark.parametrize("wrong", [
    {"num_gpus": 2}, {"verification": "unverified"}, {"reliability2": 0.969}, {"reliability2": None},
    {"inet_up": 199.0}, {"inet_down": "fast"}, {"direct_port_count": 0}, {"dph_total": 1.01}, {"dph_total": 0},
    {"dph_total": float("nan")}, {"gpu_ram": 7900}, {"disk_space": 9}, {"duration": 21_599},
    {"driver_vers": 530_040_000}, {"driver_vers": None, "driver_version": "470.82.01"},
    {"driver_vers": None, "driver_version": "newest"}, {"cpu_arch": "arm64"}, {"rentable": False}, {"rented": True},
    {"id": "7"}, {"machine_id": None}, {"gpu_name": None},
])  # fmt: skip
def test_an_offer_with_one_thing_wrong_is_not_rented(wrong: dict[str, Any]) -> None:
    assert len(usable([offer(7)], SETTINGS)) == 1
    assert usable([offer(7, **wrong)], SETTINGS) == []
