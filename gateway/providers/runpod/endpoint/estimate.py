"""What an endpoint costs. Workers are billed from their start to the end of their idle time."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.providers.runpod.gpus import NANO, Pool, dollars, price_nano_per_s

EXAMPLE_JOB_S = 10


def rows(pools: tuple[Pool, ...], gpus: int, idle_s: int, prices: Mapping[str, int] | None) -> list[tuple[str, ...]]:
    """For each pool: name, GPUs, and the cost of a second, a job of 10 s, its idle time, and both."""
    lines: list[tuple[str, ...]] = []
    for pool in pools:
        second = gpus * (price_nano_per_s(pool.name, prices) or 0)
        job, tail = EXAMPLE_JOB_S * second, idle_s * second
        lines.append((pool.name, pool.shown, dollars(second), dollars(job), dollars(tail), dollars(job + tail)))
    return lines


def head(idle_s: int) -> tuple[str, ...]:
    return ("Pool", "GPUs", "a second", f"a job of {EXAMPLE_JOB_S} s", f"its {idle_s} s idle", "both")


def max_per_hour(pools: tuple[Pool, ...], gpus: int, workers: int, prices: Mapping[str, int] | None) -> str:
    """The cost of an hour with all workers busy on the most expensive pool."""
    highest = max(price_nano_per_s(pool.name, prices) or 0 for pool in pools)
    return f"${3600 * workers * gpus * highest / NANO:.2f}"
