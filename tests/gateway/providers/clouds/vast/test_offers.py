"""Which offers are rented: checked here, because Vast.ai does not always filter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gateway.providers.clouds.vast.offers import generation, query, usable
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.comparison import rental_nano
from tests.emulators.vast import market, offer
from tests.emulators.vast.market import FIT, HOSTS, found, refuses_nvenc

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
    assert Counter(one.gpu for one in cost) == {gpu: len(HOSTS) for gpu, _, _ in FIT}
    assert cost[0].nano_per_s == 22_223  # 8 cents an hour
    speed = usable(rows, VastSettings(offer_order="speed"))
    refusing = {row["id"] for row in rows if refuses_nvenc(row)}
    assert len(refusing) == 2 * len(FIT)
    for offers in (cost, speed):
        assert {one.id for one in offers[-len(refusing) :]} == refusing, "they come last"
    assert (speed[0].gpu, generation(speed[-1].gpu)) == ("RTX 5090", 7)


def test_cost_counts_the_traffic_of_a_usual_rental() -> None:
    # 520 s: 0.0289 dollars at 20 cents an hour, 0.0144 at 10; 1.5 GB in and 0.5 GB out
    cheap_hour = offer(1, dph_total=0.1, inet_down_cost=0.02, inet_up_cost=0.02)
    cheap_traffic = offer(2, dph_total=0.2, inet_down_cost=0.001, inet_up_cost=0.001)
    assert [one.id for one in usable([cheap_hour, cheap_traffic], SETTINGS)] == [2, 1]
    assert [rental_nano(one, SETTINGS) // 100_000 for one in usable([cheap_hour, cheap_traffic], SETTINGS)] == [
        308,
        544,
    ]
    no_image = VastSettings(image_gb=0)
    assert [one.id for one in usable([{**cheap_hour, "inet_up_cost": 0.0}, cheap_traffic], SETTINGS)] == [2, 1]
    small = {**cheap_hour, "inet_down_cost": 0.0135, "inet_up_cost": 0.0}
    assert [one.id for one in usable([small, cheap_traffic], SETTINGS)] == [2, 1]
    assert [one.id for one in usable([small, cheap_traffic], no_image)] == [1, 2]


@pytest.mark.parametrize(("share", "driver", "first"), [
    (1.0, "580.65.06", True), (0.25, "565.77", True), (0.25, "610.10", True), (0.25, "569.99.99", True),
    (0.25, "570.00", False), (0.25, "609.99.99", False), (None, "580.65.06", False), ("all", "580.65.06", False),
])  # fmt: skip
def test_whole_machines_and_drivers_that_let_a_slice_encode_come_first(share: Any, driver: str, first: bool) -> None:
    other = offer(2, dph_total=0.3)
    doubtful = offer(1, dph_total=0.1, gpu_frac=share, driver_version=driver)
    for order in ("cost", "speed"):
        assert (usable([other, doubtful], VastSettings(offer_order=order))[0].id == 1) is first


@pytest.mark.parametrize(("fields", "fits"), [
    ({"reliability": 0.99, "reliability2": None}, True), ({"reliability": None, "reliability2": 0.99}, True),
    ({"reliability": 0.9, "reliability2": 0.99}, False), ({"reliability": "high", "reliability2": 0.99}, False),
    ({"reliability": None, "reliability2": None}, False),
])  # fmt: skip
def test_either_name_of_the_reliability_is_read(fields: dict[str, Any], fits: bool) -> None:
    assert bool(usable([offer(7, **fields)], SETTINGS)) is fits


def test_an_offer_that_is_listed_twice_is_one_offer() -> None:
    assert len(usable([offer(7), offer(7)], SETTINGS)) == 1


def test_what_vast_filters_and_what_we_do_are_one() -> None:
    rows = market()
    answered = found(rows, query(SETTINGS))
    assert [row["dph_total"] for row in answered] == sorted(row["dph_total"] for row in answered)
    with_encoder = {row["id"] for row in answered if generation(row["gpu_name"])}
    assert {one.id for one in usable(answered, SETTINGS)} == with_encoder


@pytest.mark.parametrize("wrong", [
    {"num_gpus": 2}, {"verification": "unverified"}, {"reliability": 0.969}, {"external": True},
    {"inet_up_cost": 0.031}, {"inet_down_cost": 0.031}, {"inet_up_cost": None}, {"inet_down_cost": "free"},
    {"inet_down_cost": -0.01}, {"inet_up_cost": float("nan")},
    {"inet_up": 199.0}, {"inet_down": "fast"}, {"direct_port_count": 0}, {"dph_total": 1.01}, {"dph_total": 0},
    {"dph_total": float("nan")}, {"gpu_ram": 7900}, {"disk_space": 9}, {"duration": 21_599},
    {"driver_vers": 530_040_000}, {"driver_vers": None, "driver_version": "470.82.01"},
    {"driver_vers": None, "driver_version": "newest"}, {"cpu_arch": "arm64"}, {"rentable": False}, {"rented": True},
    {"id": "7"}, {"machine_id": None}, {"gpu_name": None},
])  # fmt: skip
def test_an_offer_with_one_thing_wrong_is_not_rented(wrong: dict[str, Any]) -> None:
    assert len(usable([offer(7)], SETTINGS)) == 1
    assert usable([offer(7, **wrong)], SETTINGS) == []
