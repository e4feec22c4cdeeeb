"""What attempts cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from gateway.domain import transitions
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from gateway.domain.prices import Price, usd


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

    def charge(
        self, job: Job, attempt: Attempt, price: Price | None, execution_ms: int | None = None
    ) -> transitions.Pair:
        """`execution_ms`: how long the provider says that the machine worked; by default as long as we saw it work."""
        began = attempt.state is AttemptState.DONE or attempt.claimed_at or attempt.running_at or execution_ms
        if price is None or not began:
            return job, attempt
        job, attempt = transitions.charge(job, attempt, price.nano_per_s, execution_ms)
        if job.stats is not None:
            job = replace(job, stats={**job.stats, "idle_cost_usd": usd(price.idle_nano)})
        return job, attempt
