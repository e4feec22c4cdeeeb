"""The sizes of this benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How long to measure, and how large the attacks are."""

    #: How long the victim is measured before the attack and during it, in seconds.
    quiet_s: float = 10.0
    attacked_s: float = 16.0
    #: Requests of the victim per second.
    per_s: int = 10
    #: Requests that are sent at once, each followed by the next.
    at_once: int = 64
    #: Requests that wait for a job at once.
    waits: int = 100
    #: Jobs with large params in the attacker's list.
    large_jobs: int = 200
    #: Jobs of the attacker that a filter without hits has to pass.
    rows: int = 20_000
    #: Receivers of webhooks that never respond.
    silent_hosts: int = 96
    #: Connections that send the head of a request slowly.
    slow_heads: int = 400
