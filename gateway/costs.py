"""What the machines cost. Money is counted in integer nano-dollars and shown as dollars with six decimals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway import jobs
from gateway.jobs import Attempt, Job, State


@dataclass(frozen=True)
class Price:
    """Of a machine: nano-dollars a second, and how many seconds it is paid for after its last job."""

    nano_per_s: int
    idle_s: int = 0

    @property
    def idle_nano(self) -> int:
        return self.nano_per_s * self.idle_s


class Priced(Protocol):
    """The part of a provider that matters here."""

    def price(self, attempt: Attempt, gpu: str | None) -> Price | None: ...


class Costs:
    """Charges attempts that have ended by the prices of their providers."""

    def __init__(self, providers: Mapping[str, Priced]) -> None:
        self._providers = providers

    def price(self, attempt: Attempt, stats: Mapping[str, Any] | None) -> Price | None:
        """Of the attempt's machine, of which the worker's `stats` may name the GPU; None where nobody has to pay."""
        provider = self._providers.get(attempt.provider)
        return provider.price(attempt, (stats or {}).get("gpu")) if provider else None

    def charge(self, job: Job, attempt: Attempt, price: Price | None, execution_ms: int | None = None) -> jobs.Pair:
        """`execution_ms`: how long the provider says that the machine worked; by default as long as we saw it work."""
        began = attempt.state is State.DONE or attempt.claimed_at or attempt.running_at or execution_ms
        if price is None or not began:
            return job, attempt
        job, attempt = jobs.charge(job, attempt, price.nano_per_s, execution_ms)
        if job.stats is not None:
            job = replace(job, stats={**job.stats, "idle_cost_usd": usd(price.idle_nano)})
        return job, attempt


def usd(nano: int) -> float:
    return round(nano / 1e9, 6)
