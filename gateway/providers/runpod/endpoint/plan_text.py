"""What `runpod plan`, `apply` and `status` print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.providers.command_support import counted, table
from gateway.providers.runpod.endpoint import estimate
from gateway.providers.runpod.endpoint.form import label, shown
from gateway.providers.runpod.endpoint.management import Endpoint
from gateway.providers.runpod.endpoint.plan import Line, Plan


def plan_text(plan: Plan) -> str:
    """The table of wanted and present values, how many fields `apply` would change, and the warnings."""
    rows = [(label(line.path), *_sides(line), _mark(plan, line)) for line in plan.lines]
    head = ("Field", "Wanted", "Present", "")
    if plan.present is None:
        last = "There is no such endpoint; `apply` creates it."
    elif plan.changes:
        last = f"`apply` changes {counted(len(plan.changes), 'field')}."
    else:
        last = "Nothing to change."
    return "\n\n".join((_title(plan.wanted.name, plan.present), table(head, rows), last, *_warnings(plan)))


def _warnings(plan: Plan) -> Iterator[str]:
    if plan.warnings:
        yield "\n".join(f"! {warning}" for warning in plan.warnings)


def applied_text(before: Plan, after: Plan) -> str:
    assert after.present is not None
    title = _title(after.wanted.name, after.present)
    if before.present is None:
        return f"{title} was created. Set for the gateway: RUNPOD_ENDPOINT_ID={after.present['id']}"
    if before.changes:
        return f"{title}: {counted(len(before.changes), 'field')} changed."
    return f"{title} is as wanted; nothing was changed."


def kept_text(after: Plan) -> str:
    """The fields for which RunPod returned a different value from the one that was sent."""
    rows = [(label(line.path), *_sides(line)) for line in after.changes]
    return f"RunPod kept other values:\n{table(('Field', 'Sent', 'Kept'), rows)}"


def costs_text(plan: Plan, own_prices: Mapping[str, int] | None) -> str:
    """What jobs cost, at `own_prices`, or else the catalogue's, or else the table's."""
    wanted, prices = plan.wanted, {**plan.account.prices, **(own_prices or {})}
    gpus, workers = wanted.body["gpu"]["count"], wanted.body["workers"]
    rows = estimate.rows(wanted.pools, gpus, workers["idleTimeout"], prices)
    highest = estimate.max_per_hour(wanted.pools, gpus, workers["max"], prices)
    table_of_pools = table(estimate.head(workers["idleTimeout"]), rows)
    return (
        f"The cost of a single job, without the start of its worker:\n\n{table_of_pools}\n\n"
        f"All {workers['max']} workers at once: at most {highest} an hour."
    )


def status_text(endpoint: Endpoint, workers: list[Mapping[str, Any]], health: Mapping[str, Mapping[str, int]]) -> str:
    """The workers and the queue, with hints about problems."""
    limits = endpoint.get("workers") or {}
    parts = [
        f"{_title(str(endpoint.get('name')), endpoint)}: {limits.get('min', '?')} to {limits.get('max', '?')} workers, "
        f"image {endpoint.get('image') or 'unknown'}",
        "\n".join(f"{name.capitalize():<8} {_counts(health[name])}" for name in ("jobs", "workers")),
    ]
    if workers:
        parts.append(table(("Worker", "Status", "GPU", "Where", "Up", "Release"), [_worker(row) for row in workers]))
    if found := list(hints(endpoint, health)):
        parts.append("\n".join(found))
    return "\n\n".join(parts)


def hints(endpoint: Endpoint, health: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What the numbers mean when jobs do not move; docs/runpod.md has the same list."""
    jobs, workers = health["jobs"], health["workers"]
    alive = sum(workers.get(word, 0) for word in ("running", "idle", "ready"))
    if (endpoint.get("workers") or {}).get("max") == 0:
        yield "! Max workers is 0: no job will ever run. RunPod does so after a week without jobs; `apply` restores it."
    if workers.get("unhealthy", 0):
        yield "! Unhealthy workers crash at their start, again and again: read their log in RunPod's page."
    if jobs.get("inQueue", 0) and workers.get("throttled", 0) and not alive:
        yield "! All workers are throttled: RunPod has no machine free in these pools. Name more pools, or wait."


def _title(name: str, endpoint: Endpoint | None) -> str:
    return f"Endpoint {name}" if endpoint is None else f"Endpoint {name} ({endpoint['id']})"


def _sides(line: Line) -> tuple[str, str]:
    return shown(line.path, line.wanted), shown(line.path, line.present)


def _mark(plan: Plan, line: Line) -> str:
    if plan.present is None or not line.differs:
        return ""
    return "removed" if line.wanted is None else "changed"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{word} {number}" for word, number in sorted(counts.items()))


def _worker(row: Mapping[str, Any]) -> tuple[str, ...]:
    up = row.get("uptimeSeconds")
    return (
        str(row["id"]),
        str(row.get("status", "?")),
        str(row.get("gpuTypeId") or "—").removeprefix("NVIDIA "),
        str(row.get("dataCenterId") or "—"),
        "—" if up is None else f"{up} s",
        "old" if row.get("isStale") else "current",
    )
