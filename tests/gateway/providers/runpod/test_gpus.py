"""The table of GPUs and prices."""

from __future__ import annotations

import tomllib

import pytest

from common.settings import SettingsError, read
from gateway.providers.runpod.gpus import POOLS, dollars, price_nano_per_s
from gateway.providers.runpod.settings import RunPodSettings
from tests.conftest import ROOT


@pytest.mark.parametrize(("price", "names"), [
    (310_000, "ADA_24, NVIDIA GeForce RTX 4090, RTX 4090"),
    (440_000, "ADA_32_PRO, NVIDIA GeForce RTX 5090"),
    (190_000, "nvidia l4"),
    (160_000, "NVIDIA RTX A4000, NVIDIA RTX 4000 Ada Generation"),
    (530_000, "NVIDIA L40, NVIDIA L40S, NVIDIA RTX 6000 Ada Generation"),
    (340_000, "NVIDIA RTX A6000"),
    (1_110_000, "RTX PRO 6000"),
    (760_000, "NVIDIA A100-SXM4-80GB"),
    (1_160_000, "NVIDIA H100 NVL"),
    (2_400_000, "NVIDIA B200"),
    (None, "NVIDIA GeForce GTX 1080, "),
])  # fmt: skip
def test_a_second_has_the_price_of_its_pool(price: int | None, names: str) -> None:
    assert {price_nano_per_s(name) for name in names.split(", ")} == {price}


def test_no_gpu_is_in_two_pools() -> None:
    gpus = [gpu for pool in POOLS.values() for gpu in pool.gpus]
    assert len(set(gpus)) == len(gpus)
    for pool in POOLS.values():
        assert {price_nano_per_s(gpu) for gpu in pool.gpus} == {pool.price}


def test_data_centre_gpus_and_no_others_lack_nvenc() -> None:
    without = {pool.name for pool in POOLS.values() if not pool.nvenc}
    assert without == {"AMPERE_80", "ADA_80_PRO", "HOPPER_141", "BLACKWELL_180"}


def test_a_setting_overrides_prices() -> None:
    prices = read(RunPodSettings, {"RUNPOD_GPU_PRICES": "ADA_24=0.00044, AMPERE_24 = 1e-9"}).gpu_prices
    assert prices == {"ADA_24": 440_000, "AMPERE_24": 1}
    assert price_nano_per_s("RTX 4090", prices) == 440_000
    assert price_nano_per_s("RTX A6000", prices) == 340_000


@pytest.mark.parametrize("wrong", ["nan", "inf", "-1", "", "free", "310000", "1e99999999"])
def test_a_wrong_price_is_named(wrong: str) -> None:
    with pytest.raises(SettingsError, match="RUNPOD_GPU_PRICES: ADA_24: must be dollars per second"):
        read(RunPodSettings, {"RUNPOD_GPU_PRICES": f"ADA_24={wrong}"})


def test_an_unknown_pool_has_no_price() -> None:
    with pytest.raises(SettingsError, match="RUNPOD_GPU_PRICES: Unknown pool 'ADA24'; known: AMPERE_16, "):
        read(RunPodSettings, {"RUNPOD_GPU_PRICES": "ADA24=0.1"})


@pytest.mark.parametrize(
    ("nano", "text"),
    [(310_000, "$0.00031"), (2_400_000, "$0.0024"), (0, "$0.00"), (1, "$0.000000001"), (12_500_000_000, "$12.50")],
)
def test_money_is_shown_to_the_last_digit(nano: int, text: str) -> None:
    assert dollars(nano) == text


def test_runpodctl_is_offered_the_gpus_of_our_pools() -> None:
    file = tomllib.loads((ROOT / "runpod.toml").read_text())
    ours = [gpu for name in file["reelay"]["gpu_pools"] for gpu in POOLS[name].gpus]
    assert file["project"]["gpu_types"] == ours
