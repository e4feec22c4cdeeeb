"""RunPod's GPU pools: their GPUs, prices per second, and whether they can encode.

RunPod's catalogue has the present GPUs and prices, but does not say which of them have an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from marshmallow import ValidationError, fields

from gateway.providers.gpu_names import name_key, short_name

NANO = 1_000_000_000
_MAX_NANO_PER_S = NANO  # more than a dollar a second is a typo


@dataclass(frozen=True)
class Pool:
    """A pool of GPUs with one price."""

    #: RunPod's id of it.
    name: str
    #: Of a flex worker, in nano-dollars per second and GPU.
    price: int
    #: RunPod's GPU type ids.
    gpus: tuple[str, ...]
    #: Whether these GPUs have an encoder.
    nvenc: bool = True

    @property
    def shown(self) -> str:
        return ", ".join(dict.fromkeys(map(short_name, self.gpus)))


# Prices: https://docs.runpod.io/serverless/pricing. NVENC: NVIDIA's data centre compute GPUs have no encoder.
POOLS: Mapping[str, Pool] = {
    pool.name: pool
    for pool in (
        Pool(
            "AMPERE_16",
            160_000,
            (
                "NVIDIA RTX A4000",
                "NVIDIA RTX A4500",
                "NVIDIA RTX 4000 Ada Generation",
                "NVIDIA RTX 2000 Ada Generation",
            ),
        ),
        Pool("AMPERE_24", 190_000, ("NVIDIA L4", "NVIDIA RTX A5000", "NVIDIA GeForce RTX 3090")),
        Pool("ADA_24", 310_000, ("NVIDIA GeForce RTX 4090",)),
        Pool("ADA_32_PRO", 440_000, ("NVIDIA GeForce RTX 5090",)),
        Pool("AMPERE_48", 340_000, ("NVIDIA RTX A6000", "NVIDIA A40")),
        Pool("ADA_48_PRO", 530_000, ("NVIDIA L40", "NVIDIA L40S", "NVIDIA RTX 6000 Ada Generation")),
        Pool(
            "BLACKWELL_96",
            1_110_000,
            (
                "NVIDIA RTX PRO 6000 Blackwell Server Edition",
                "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
                "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
            ),
        ),
        Pool("AMPERE_80", 760_000, ("NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB"), nvenc=False),
        Pool("ADA_80_PRO", 1_160_000, ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H100 NVL"), nvenc=False),
        Pool("HOPPER_141", 1_550_000, ("NVIDIA H200",), nvenc=False),
        Pool("BLACKWELL_180", 2_400_000, ("NVIDIA B200",), nvenc=False),
    )
}


def price_nano_per_s(gpu_or_pool: str, prices: Mapping[str, int] | None = None) -> int | None:
    """Price of a second on a GPU or in a pool, in nano-dollars per GPU; None when it is not in the table.

    A GPU is named by its id (`NVIDIA GeForce RTX 4090`) or in short (`RTX 4090`). `prices`, those of
    RUNPOD_GPU_PRICES, override the table's.
    """
    pool = POOLS.get(gpu_or_pool) or _POOL_OF_GPU.get(name_key(gpu_or_pool))
    return None if pool is None else (prices or {}).get(pool.name, pool.price)


def dollars(nano: int) -> str:
    """`310_000` → `$0.00031`, `2_790_000_000` → `$2.79`: all digits, and at least two."""
    whole, _, part = f"{Decimal(nano) / NANO:.9f}".partition(".")
    return f"${whole}.{part.rstrip('0'):0<2}"


class Prices(fields.Field[Mapping[str, int]]):
    """`ADA_24=0.00031, AMPERE_24=0.00019`, in dollars per second → nano-dollars per second of each pool."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Mapping[str, int]:
        entries = [part.strip() for part in str(value).split(",") if part.strip()]
        return dict(_price(entry) for entry in entries)


def _price(entry: str) -> tuple[str, int]:
    pool, _, text = (part.strip() for part in entry.partition("="))
    if pool not in POOLS:
        raise ValidationError(f"Unknown pool {pool!r}; known: {', '.join(POOLS)}.")
    try:
        nano = int(Decimal(text) * NANO)
    except (ArithmeticError, ValueError):
        nano = -1
    if not 0 <= nano <= _MAX_NANO_PER_S:
        raise ValidationError(f"{pool}: must be dollars per second, like {pool}=0.00031.")
    return pool, nano


_POOL_OF_GPU = {name_key(name): pool for pool in POOLS.values() for gpu in pool.gpus for name in (gpu, short_name(gpu))}
