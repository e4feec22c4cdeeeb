"""Prometheus metrics: counters of this gateway, and gauges read from the database at every scrape.

Gateways that share a database count the ends that they record themselves; the total is the sum over all gateways. The
gauges and `reelay_orphans_total` are the same at each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.clock import Clock
from gateway.db.rental_store import orphans, spending
from gateway.db.store import Store
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import MARGIN_MS, Job, JobStatus
from gateway.domain.webhooks import Webhook
from gateway.providers.base import Provider, ProviderError

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
BYTES = (1e4, 1e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 5e9)


class Metrics:
    """All metrics of one application."""

    def __init__(self, store: Store, providers: Mapping[str, Provider], clock: Clock) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_GaugeCollector(store, providers, clock))
        self._families: dict[str, Counter | Histogram] = {}
        #: Where another process has the counters: called instead of `count`, with the same arguments.
        self.forward: Callable[[str, Sequence[str], float], object] | None = None
        self._counter("reelay_jobs_ended", "Jobs that have ended.", "operation", "status", "provider")
        self._histogram("reelay_job_queue_seconds", "From the request to the start of the first worker.", "operation")
        self._histogram(
            "reelay_job_run_seconds", "From the start of the first worker to the end of a completed job.", "operation"
        )
        self._histogram(
            "reelay_provisioning_seconds",
            "From the creation of an attempt to its claim by a worker, including repeated submits.",
            "provider",
        )
        what = "Attempts that have ended; code is empty for those that succeeded."
        self._counter("reelay_attempts_ended", what, "provider", "state", "code")
        self._counter("reelay_cost_usd", "What attempts have cost, in dollars.", "provider")
        what = "Completed jobs by video encoder."
        self._counter("reelay_encodes", what, "provider", "encoder", "device")
        self._histogram("reelay_output_bytes", "Size of all files of a finished job.", "operation", BYTES)
        self._counter(
            "reelay_webhook_tries",
            "Tries to send a webhook by its state after the try; a pending webhook is sent again.",
            "state",
        )
        self._counter("reelay_video_seconds", "Length of all finished videos.", "operation")

    def _counter(self, name: str, doc: str, *labels: str) -> None:
        self._families[name] = Counter(name, doc, labels, registry=self.registry)

    def _histogram(self, name: str, doc: str, label: str, buckets: Sequence[float] = SECONDS) -> None:
        self._families[name] = Histogram(name, doc, [label], buckets=buckets, registry=self.registry)

    def count(self, name: str, labels: Sequence[str], amount: float) -> None:
        """Add to the counter, or the observation to the histogram, of this name with these values of its labels."""
        family = self._families[name].labels(*labels)
        if isinstance(family, Histogram):
            family.observe(amount)
        else:
            family.inc(amount)

    def _count(self, name: str, *labels: str, amount: float = 1) -> None:
        (self.forward or self.count)(name, labels, amount)

    def claimed(self, attempt: Attempt) -> None:
        """Record that a worker has claimed the attempt."""
        if attempt.claimed_at:  # `sent_at` would exclude the boot of a machine
            seconds = max(0, attempt.claimed_at - attempt.created_at) / 1000
            self._count("reelay_provisioning_seconds", attempt.provider, amount=seconds)

    def attempt_ended(self, attempt: Attempt) -> None:
        """Record the end and the cost of an attempt."""
        self._count("reelay_attempts_ended", attempt.provider, str(attempt.state), attempt.error_code or "")
        if attempt.cost_nano:
            self._count("reelay_cost_usd", attempt.provider, amount=attempt.cost_nano / 1e9)

    def job_ended(self, job: Job, attempt: Attempt | None) -> None:
        """Record the end of a job; `attempt`: its last one."""
        self._count("reelay_jobs_ended", job.operation, str(job.status), attempt.provider if attempt else "")
        if job.status is not JobStatus.COMPLETED or job.started_at is None or job.finished_at is None:
            return
        stats: Mapping[str, Any] = job.stats or {}
        queued_s = max(0, job.started_at - job.created_at) / 1000
        self._count("reelay_job_queue_seconds", job.operation, amount=queued_s)
        run_s = max(0, job.finished_at - job.started_at) / 1000
        self._count("reelay_job_run_seconds", job.operation, amount=run_s)
        if "encoder" in stats:
            self._count("reelay_encodes", stats.get("provider", ""), stats["encoder"], stats.get("device", ""))
        size = sum(output.size_bytes or 0 for output in job.outputs.values())
        self._count("reelay_output_bytes", job.operation, amount=size)
        self._count("reelay_video_seconds", job.operation, amount=max(0, stats.get("duration_s") or 0))

    def webhook_tried(self, webhook: Webhook) -> None:
        """Record the outcome of a try to send a webhook."""
        self._count("reelay_webhook_tries", str(webhook.state))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _GaugeCollector(Collector):
    """Gauges of the whole installation, read at every scrape."""

    def __init__(self, store: Store, providers: Mapping[str, Provider], clock: Clock) -> None:
        self._store, self._providers, self._clock = store, providers, clock

    def collect(self) -> Iterator[Metric]:
        now = self._clock.now_ms()
        unfinished = self._store.unfinished(now, MARGIN_MS)
        jobs = GaugeMetricFamily("reelay_jobs", "Jobs that have not ended.", labels=["status"])
        for status in (JobStatus.QUEUED, JobStatus.RUNNING):
            jobs.add_metric([str(status)], unfinished.by_status.get(str(status), 0))
        yield jobs
        age_s = _seconds(unfinished.oldest_at, now)
        yield GaugeMetricFamily("reelay_jobs_oldest_seconds", "Age of the oldest job that has not ended.", age_s)
        yield GaugeMetricFamily(
            "reelay_jobs_past_limits", "Jobs that should have ended by their own limits.", unfinished.past_limits
        )
        unsent, oldest_at = self._store.unsent_webhooks()
        yield GaugeMetricFamily("reelay_webhooks_waiting", "Webhooks that are waiting to be sent or retried.", unsent)
        age_s = _seconds(oldest_at, now)
        yield GaugeMetricFamily("reelay_webhooks_oldest_seconds", "Age of the oldest webhook that is waiting.", age_s)
        found = "Rented machines found without the record of a current rental, and destroyed."
        yield CounterMetricFamily("reelay_orphans", found, orphans(self._store))
        yield from self._rentals(now)
        yield from self._providers_now()

    def _providers_now(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("reelay_provider_up", "1 while the provider can be reached.", labels=["provider"])
        workers = GaugeMetricFamily(
            "reelay_provider_workers",
            "The provider's workers by state, if it reports them.",
            labels=["provider", "state"],
        )
        for provider in self._providers.values():
            try:
                reported = provider.workers()
                up.add_metric([provider.name], 1)
            except ProviderError:
                reported = {}
                up.add_metric([provider.name], 0)
            for state, count in reported.items():
                workers.add_metric([provider.name, state], count)
        yield up
        yield workers

    def _rentals(self, now: int) -> Iterator[Metric]:
        spent = spending(self._store, now)
        per_hour, today = spent.nano_per_s * 3600 / 1e9, spent.today_nano / 1e9
        what = "Cost of the current rentals per hour, in dollars."
        yield GaugeMetricFamily("reelay_rentals_usd_per_hour", what, per_hour)
        what = "Cost of all rentals on this day (UTC), in dollars."
        yield GaugeMetricFamily("reelay_rentals_today_usd", what, today)
        what = "Time since the oldest machine in destruction began to be destroyed."
        yield GaugeMetricFamily("reelay_rentals_destroying_seconds", what, _seconds(spent.ending_since, now))

    def describe(self) -> Iterator[Metric]:
        """Return nothing; the registry would otherwise query the database on registration."""
        return iter(())


def _seconds(since: int | None, now: int) -> float:
    """Seconds since a time in ms UTC; 0 for None."""
    return 0.0 if since is None else max(0, now - since) / 1000
