"""The offers: some that are suitable, and cheaper ones of every kind that is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from tests.emulators.vast import published

MAX_ROWS = 64
# GPU, memory in MB, dollars an hour
FIT = (
    ("RTX 3060", 12288, 0.08),
    ("RTX A2000", 12288, 0.09),
    ("RTX 2080 Ti", 11264, 0.10),
    ("Tesla T4", 15360, 0.12),
    ("RTX 3090", 24576, 0.18),
    ("RTX A4000", 16376, 0.19),
    ("A10", 23028, 0.25),
    ("L4", 23034, 0.28),
    ("RTX 4090", 24564, 0.34),
    ("RTX 6000Ada", 49140, 0.55),
    ("L40S", 46068, 0.60),
    ("RTX 5090", 32607, 0.65),
    ("A40", 46068, 0.40),
)
# Chips without an encoder.
WITHOUT_NVENC = (
    ("A100 SXM4", 81920, 0.05),
    ("A100 PCIE", 40960, 0.05),
    ("A800 PCIE", 81920, 0.05),
    ("A30", 24576, 0.04),
    ("H100 SXM", 81559, 0.06),
    ("H100 NVL", 95830, 0.06),
    ("H200", 143771, 0.06),
    ("GH200 SXM", 97871, 0.06),
    ("B200", 183359, 0.07),
    ("B300", 270000, 0.07),
)
# Each has one defect.
UNFIT: tuple[Mapping[str, Any], ...] = (
    {"reliability2": 0.91, "reliability": 0.91},
    {"verification": "unverified"},
    {"verification": "deverified"},
    {"num_gpus": 2},
    {"inet_up": 40.0},
    {"inet_down": 40.0},
    {"direct_port_count": 0},
    {"driver_version": "470.82.01"},
    {"duration": 1800.0},
    {"gpu_name": "RTX 3050", "gpu_ram": 4096, "gpu_total_ram": 4096},
    {"rentable": False},
    {"rented": True},
    {"disk_space": 4.0},
    {"dph_total": 9.5},
    {"cpu_arch": "arm64"},
    {"inet_down_cost": 0.5},
    {"inet_up_cost": 0.5},
    {"inet_up_cost": None},
    {"external": True},
)
# Kinds of machines: the share of their GPUs that an offer of one GPU is, their driver, and the price of traffic from and
# to them, in dollars per GB.
HOSTS = (
    (1.0, "550.54.15", 0.002, 0.004),
    (0.5, "575.57.08", 0.001, 0.001),
    (0.25, "550.54.15", 0.01, 0.02),
    (0.125, "580.65.06", 0.0, 0.0),
    (1.0, "575.57.08", 0.002, 0.004),
    (0.5, "610.10.01", 0.02, 0.02),
)
# Drivers under which a container with some of a machine's GPUs cannot encode, as integers.
REFUSING = range(570_000_000, 610_000_000)
_DEFAULTS = {"verified": {"eq": True}, "rentable": {"eq": True}, "rented": {"eq": False}}
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda have, want: have == want,
    "neq": lambda have, want: have != want,
    "gt": lambda have, want: have > want,
    "gte": lambda have, want: have >= want,
    "lt": lambda have, want: have < want,
    "lte": lambda have, want: have <= want,
    "in": lambda have, want: have in want,
    "notin": lambda have, want: have not in want,
}
# What search matches where its field has another value.
_VALUES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "verified": lambda row: row["verification"] == "verified",
    "external": lambda row: bool(row["external"]),
    "driver_version": lambda row: row["driver_vers"],
}
_OPTIONS = {"limit", "type", "order", "allocated_storage", "q", "disable_bundling"}


def offer(offer_id: int, **fields: Any) -> dict[str, Any]:
    """A suitable offer, with `fields` replaced."""
    ram, price = fields.get("gpu_ram", 24576), fields.get("dph_total", 0.2)
    driver = fields.get("driver_version", "550.54.15")
    return {
        "id": offer_id,
        "ask_contract_id": offer_id,
        "machine_id": offer_id + 50_000,
        "host_id": offer_id % 7 + 900,
        "gpu_name": "RTX 3090",
        "gpu_arch": "nvidia",
        "gpu_ram": ram,
        "gpu_total_ram": ram,
        "gpu_frac": 1.0,
        "num_gpus": 1,
        "compute_cap": 860,
        "cuda_max_good": 12.4,
        "driver_version": driver,
        "driver_vers": _integer(driver),
        "cpu_arch": "amd64",
        "cpu_cores": 16,
        "cpu_cores_effective": 8.0,
        "cpu_name": "Xeon",
        "cpu_ram": 65536,
        "disk_space": 200.0,
        "disk_bw": 1500.0,
        "dph_base": price,
        "dph_total": price,
        "storage_cost": 0.15,
        "inet_down": 800.0,
        "inet_up": 600.0,
        "inet_down_cost": 0.0,
        "inet_up_cost": 0.0,
        "direct_port_count": 99,
        "static_ip": False,
        "public_ipaddr": "127.0.0.1",
        "geolocation": "Sweden, SE",
        "reliability": 0.995,
        "reliability2": 0.995,
        "verification": "verified",
        "rentable": True,
        "rented": False,
        "external": None,
        "is_bid": False,
        "min_bid": price / 2,
        "duration": 2_000_000.0,
        "dlperf": 40.0,
        "score": 100.0,
        **fields,
    }


def market() -> list[dict[str, Any]]:
    """More offers than one response holds: unsuitable ones are the cheapest, each suitable GPU is on every kind of machine."""
    ids = itertools.count(1_000_001)
    unfit = [offer(next(ids), **{"dph_total": 0.05, **wrong}) for wrong in UNFIT]
    without_nvenc = [_of(next(ids), *gpu) for gpu in WITHOUT_NVENC]
    return unfit + without_nvenc + [_of(next(ids), *gpu, **_host(*host)) for host in HOSTS for gpu in FIT]


def refuses_nvenc(row: Mapping[str, Any]) -> bool:
    """Whether NVENC fails for a container on the offer's machine: a slice of its GPUs under one of the drivers 570 to 609."""
    return row["gpu_frac"] < 1 and row["driver_vers"] in REFUSING


def _host(share: float, driver: str, down: float, up: float) -> dict[str, Any]:
    return {"gpu_frac": share, "driver_version": driver, "inet_down_cost": down, "inet_up_cost": up}


def _integer(driver: str) -> int | None:
    """`550.54.15` → 550054015; None for what is no version."""
    parts = driver.split(".")
    if not all(part.isdecimal() for part in parts):
        return None
    return sum(int(part) * scale for part, scale in zip(parts, (1_000_000, 1000, 1), strict=False))


def _of(offer_id: int, gpu: str, ram: int, price: float, **more: Any) -> dict[str, Any]:
    return offer(offer_id, gpu_name=gpu, gpu_ram=ram, dph_total=price, **more)


def found(offers: list[dict[str, Any]], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results of a search. Raises ValueError for an invalid query."""
    filters = {**_DEFAULTS, **{name: value for name, value in query.items() if name not in _OPTIONS}}
    for name, wanted in filters.items():
        if name not in published.FILTERS:
            raise ValueError(f"{name}: no such filter")
        if not isinstance(wanted, Mapping) or not wanted.keys() <= _OPERATORS.keys():
            raise ValueError(f"{name}: not a filter: {wanted!r}")
    if query.get("type", "ondemand") not in {"ondemand", "bid", "reserved"}:
        raise ValueError("type")
    rows = [row for row in offers if all(fits(row, *one) for one in filters.items())]
    for field, direction in reversed(query.get("order", [["score", "desc"]])):
        rows.sort(key=lambda row: row.get(field, 0), reverse=direction == "desc")
    return rows[: max(1, min(int(query.get("limit", MAX_ROWS)), MAX_ROWS))]


def fits(row: Mapping[str, Any], name: str, wanted: Mapping[str, Any]) -> bool:
    have = _VALUES[name](row) if name in _VALUES else row.get(name)
    try:
        return all(_OPERATORS[operator](have, value) for operator, value in wanted.items())
    except TypeError:
        return False
