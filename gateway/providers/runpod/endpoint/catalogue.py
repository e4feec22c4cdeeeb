"""What RunPod's account offers and allows now: GPUs, prices and workers, and what that means for a wanted endpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.providers.runpod.endpoint.failures import EndpointError
from gateway.providers.runpod.endpoint.management import Management
from gateway.providers.runpod.endpoint.wanted import Wanted
from gateway.providers.runpod.gpus import NANO

_MAX_PER_HOUR = 3600  # dollars; more is an error in the catalogue


@dataclass(frozen=True)
class Account:
    """What RunPod reports; a part that could not be read is None, with the reason in `problems`."""

    #: The catalogue's GPUs.
    gpus: Sequence[Mapping[str, Any]] | None = None
    #: How many workers the account's limit leaves for this endpoint.
    workers: int | None = None
    #: What could not be read, and why.
    problems: tuple[str, ...] = ()

    @property
    def prices(self) -> dict[str, int]:
        """Nano-dollars per second and GPU by pool, where the catalogue has a price."""
        found: dict[str, int] = {}
        for gpu in self.gpus or ():
            if isinstance(pool := gpu.get("pool"), str) and (price := _price(gpu)) is not None:
                found[pool] = max(price, found.get(pool, 0))
        return found

    def unknown_gpus(self, wanted: Wanted) -> list[str]:
        """Ids of the GPUs in the wanted pools of which it is not known whether they can encode."""
        known = {gpu for pool in wanted.pools for gpu in pool.gpus}
        names = [pool.name for pool in wanted.pools]
        return sorted(str(gpu["id"]) for gpu in self.gpus or () if gpu.get("pool") in names and gpu["id"] not in known)


def read(management: Management, endpoint_id: str | None) -> Account:
    """Read what the account offers and allows. `endpoint_id` is the present endpoint's; None if there is none."""
    problems: list[str] = []
    gpus, workers = None, None
    try:
        gpus = management.gpus()
    except EndpointError as error:
        problems.append(f"RunPod's catalogue of GPUs cannot be read, so unknown GPUs are not excluded. {error}")
    try:
        workers = management.worker_limit() - management.max_workers_of_others(endpoint_id)
    except EndpointError as error:
        problems.append(f"The account's limit of workers cannot be read. {error}")
    return Account(gpus, workers, tuple(problems))


def warnings(account: Account, wanted: Wanted) -> list[str]:
    """What an operator should know before the wanted endpoint is applied."""
    found = list(account.problems)
    if unknown := account.unknown_gpus(wanted):
        found.append(f"Excluded, because it is not known whether they can encode: {', '.join(unknown)}.")
    if account.gpus is not None:
        pools = [pool.name for pool in wanted.pools]
        offered = [name for name in pools if any(gpu.get("pool") == name for gpu in account.gpus)]
        if missing := sorted(set(pools) - set(offered)):
            found.append(f"RunPod's catalogue has no GPU in: {', '.join(missing)}.")
        if unpriced := [name for name in offered if name not in account.prices]:
            found.append(f"RunPod's catalogue has no price for {', '.join(unpriced)}; this release's is shown.")
    max_workers = wanted.body["workers"]["max"]
    if account.workers is not None and account.workers < max_workers:
        found.append(
            f"max_workers is {max_workers}, but the account's limit leaves {max(0, account.workers)} for this "
            "endpoint: RunPod refuses more, or starts fewer. "
            "Ask it for more, or lower Max Workers here or of other endpoints."
        )
    return found


def without_unknown(wanted: Wanted, account: Account) -> Wanted:
    """Return what is wanted, with the GPUs excluded of which it is not known whether they can encode.

    Raises EndpointError when no GPU is left.
    """
    gpu = wanted.body["gpu"]
    excluded = [*gpu["excludedTypes"], *account.unknown_gpus(wanted)]
    offered = [one["id"] for one in account.gpus or () if one.get("pool") in gpu["pools"]]
    if offered and set(offered) <= set(excluded):
        raise EndpointError(f"No GPU is left in {', '.join(gpu['pools'])}: of those there, none is known to encode.")
    return Wanted({**wanted.body, "gpu": {**gpu, "excludedTypes": excluded}}, wanted.pools)


def _price(gpu: Mapping[str, Any]) -> int | None:
    """Nano-dollars per second; None where the catalogue has no price, or none that makes sense."""
    prices = gpu.get("price")
    hour = prices.get("serverless") if isinstance(prices, dict) else None
    if isinstance(hour, bool) or not isinstance(hour, int | float) or not math.isfinite(hour):
        return None
    return round(hour * NANO / 3600 / 1000) * 1000 if 0 < hour <= _MAX_PER_HOUR else None
