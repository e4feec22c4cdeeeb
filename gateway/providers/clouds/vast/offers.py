"""Decides which of Vast.ai's offers are rented, and in which order.

Vast.ai does not always apply all filters, so every offer is checked again here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.domain.prices import TrafficPrice
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.cloud import Offer
from gateway.providers.rental.comparison import rental_nano

Row = Mapping[str, Any]

DISK_GB = 10
MAX_OFFERS = 64  # more are never returned
MIN_RELIABILITY = 0.97
MIN_INET_MBIT_S = 200
# 530.41.03, the minimum for NVENC in Debian 13's FFmpeg.
MIN_DRIVER = 530_041_003
# Under these drivers NVENC fails in a container that has one of a machine's several GPUs: the driver asks for all GPUs
# of the machine and cannot open the others (https://github.com/NVIDIA/nvidia-container-toolkit/issues/1249).
REFUSING_DRIVERS = range(570_000_000, 610_000_000)
# GPUs with NVENC, by the generation of their encoder and Vast.ai's name. The A100, the H100 and similar GPUs have none;
# GPUs that are not listed are not rented.
NVENC: Mapping[int, re.Pattern[str]] = {
    7: re.compile(r"RTX [23]0\d\d( ?S| ?Ti| Super)*|RTX A\d{4}|(Tesla )?T4|A10|A16|A40"),
    8: re.compile(r"RTX 40\d\d( ?S| ?D| ?Ti| Super)*|RTX \d{4} ?Ada|L4|L40S?"),
    9: re.compile(r"RTX 50\d\d( ?D| ?Ti)*|RTX PRO \d{4}( \w+)*"),
}


def query(settings: VastSettings, *, whole: bool = False) -> dict[str, Any]:
    """The body of a search; with `whole`, for machines that are not shared with others."""
    return {
        **({"gpu_frac": {"eq": 1}} if whole else {}),
        "type": "ondemand",
        "limit": MAX_OFFERS,
        "allocated_storage": DISK_GB,
        "order": [["dph_total", "asc"]] if settings.offer_order == "cost" else [["dlperf", "desc"]],
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "verified": {"eq": True},
        "num_gpus": {"eq": 1},
        "cpu_arch": {"eq": "amd64"},
        "compute_cap": {"gte": 750},  # otherwise cheap GPUs without NVENC could fill the result
        "external": {"eq": False},
        "reliability": {"gte": MIN_RELIABILITY},
        "inet_up": {"gte": MIN_INET_MBIT_S},
        "inet_down": {"gte": MIN_INET_MBIT_S},
        "inet_up_cost": {"lte": settings.max_traffic_price},
        "inet_down_cost": {"lte": settings.max_traffic_price},
        "direct_port_count": {"gte": 1},
        "disk_space": {"gte": DISK_GB},
        "gpu_ram": {"gte": settings.min_vram_gb * 1000},
        "dph_total": {"lte": settings.max_price},
        "driver_version": {"gte": MIN_DRIVER},
        "duration": {"gte": settings.max_lifetime},
    }


def wide_query() -> dict[str, Any]:
    """The body of a search for the cheapest machines, whether they fit or not."""
    return {"type": "ondemand", "limit": MAX_OFFERS, "allocated_storage": DISK_GB, "order": [["dph_total", "asc"]]}


def usable(rows: Iterable[Row], settings: VastSettings) -> list[Offer]:
    """Those of the rows that may be rented, each once, the best first."""
    fit = {row["id"]: row for row in rows if unfit(row, settings) is None}

    def rank(offer: Offer) -> tuple[bool, int, int, int]:
        newest = -(generation(offer.gpu) or 0) if settings.offer_order == "speed" else 0
        return not can_encode(fit[offer.id]), newest, rental_nano(offer, settings), offer.id

    return sorted(map(_offer, fit.values()), key=rank)


def can_encode(row: Row) -> bool:
    """Whether NVENC can be expected to work there, which no search reports; see REFUSING_DRIVERS."""
    return _number(row, "gpu_frac") == 1 or _driver(row) not in REFUSING_DRIVERS


def generation(gpu: str) -> int | None:
    """Generation of the GPU's encoder; None when it has none or is not known."""
    return next((number for number, names in NVENC.items() if names.fullmatch(gpu)), None)


def _offer(row: Row) -> Offer:
    price, down, up = (math.ceil(_number(row, name) * 1e9) for name in ("dph_total", "inet_down_cost", "inet_up_cost"))
    return Offer(row["id"], row["machine_id"], _gpu(row), price, TrafficPrice(down, up))


def unfit(row: Row, settings: VastSettings) -> str | None:
    """Why the offer may not be rented; None when it may."""
    fits = {
        "it has no ids": type(row.get("id")) is int and type(row.get("machine_id")) is int,
        "its GPU is not known to have NVENC": generation(_gpu(row)) is not None,
        "not one GPU": row.get("num_gpus") == 1,
        "rented already": row.get("rentable") is not False and row.get("rented") is not True,
        "above VAST_MAX_PRICE": 0 < _number(row, "dph_total") <= settings.max_price,
        "traffic without a price, or above VAST_MAX_TRAFFIC_PRICE": all(
            0 <= _number(row, name) <= settings.max_traffic_price for name in ("inet_down_cost", "inet_up_cost")
        ),
        "offered on another site than Vast.ai": row.get("external") is not True,
        "not verified by Vast.ai": row.get("verified") is True or row.get("verification") == "verified",
        "another processor than amd64": row.get("cpu_arch", "amd64") == "amd64",
        f"reliability below {MIN_RELIABILITY}": _reliability(row) >= MIN_RELIABILITY,
        f"network below {MIN_INET_MBIT_S} Mbit/s": min(_number(row, "inet_up"), _number(row, "inet_down"))
        >= MIN_INET_MBIT_S,
        "no port from outside": _number(row, "direct_port_count") >= 1,
        f"less than {DISK_GB} GB of disk": _number(row, "disk_space") >= DISK_GB,
        "less memory than VAST_MIN_VRAM_GB": _number(row, "gpu_ram") >= settings.min_vram_gb * 1000,
        "offered for less than VAST_MAX_LIFETIME": _number(row, "duration") >= settings.max_lifetime,
        "its driver is too old": _driver(row) >= MIN_DRIVER,
    }
    return next((reason for reason, fit in fits.items() if not fit), None)


def _gpu(row: Row) -> str:
    return str(row.get("gpu_name") or "").replace("_", " ").strip()


def _reliability(row: Row) -> float:
    """The field `reliability`, or where it is missing `reliability2`, which it replaces."""
    return _number(row, "reliability2" if row.get("reliability") is None else "reliability")


def _number(row: Row, name: str) -> float:
    """Return the field as a number, or -1, which meets no minimum, if it is missing or not a number."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return -1.0
    return float(value)


def _driver(row: Row) -> int:
    """Return the driver version as an integer: `535.86.05` → 535086005. Either field may have either form."""
    for name in ("driver_vers", "driver_version"):
        value = row.get(name)
        if type(value) is int:
            return value
        if isinstance(value, str) and (parts := re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", value)):
            return int(parts[1]) * 1_000_000 + int(parts[2]) * 1000 + int(parts[3] or 0)
    return -1
