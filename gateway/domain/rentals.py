"""Rented machines: what is recorded of each, its stages and their legal changes.

The stages: INTENT (committed before anything is sent) → CREATING (the call is being made) → BOOTING, or AMBIGUOUS
while it is unknown whether a machine exists → PROBING (it runs, its worker has not responded) → READY, BUSY and IDLE
→ DESTROYING (committed before the first call that destroys it) → GONE, once that is proven. NO_MACHINE: none was made.
A machine that is found although its record says otherwise is an orphan; it goes to DESTROYING.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ulid import ULID

from common.clock import DAY_MS
from gateway.domain.attempts import IllegalChange
from gateway.domain.jobs import MARGIN_MS
from gateway.domain.prices import TrafficPrice


class Stage(StrEnum):
    """The stage of a rental."""

    INTENT = "intent"
    CREATING = "creating"
    AMBIGUOUS = "ambiguous"
    NO_MACHINE = "no_machine"
    BOOTING = "booting"
    PROBING = "probing"
    READY = "ready"
    BUSY = "busy"
    IDLE = "idle"
    DESTROYING = "destroying"
    GONE = "gone"


OVER = frozenset({Stage.NO_MACHINE, Stage.GONE})
# Stages in which a machine is, or may be, on its way.
COMING = frozenset({Stage.INTENT, Stage.CREATING, Stage.AMBIGUOUS, Stage.BOOTING, Stage.PROBING})
USABLE = frozenset({Stage.READY, Stage.BUSY, Stage.IDLE})
_ENDS = frozenset({Stage.DESTROYING, Stage.GONE})

CHANGES: Mapping[Stage, frozenset[Stage]] = {
    Stage.INTENT: frozenset({Stage.CREATING, Stage.NO_MACHINE}),
    Stage.CREATING: frozenset({Stage.BOOTING, Stage.AMBIGUOUS}),
    Stage.AMBIGUOUS: frozenset({Stage.BOOTING, Stage.NO_MACHINE}),
    # AMBIGUOUS: the id turned out to be another machine's
    Stage.BOOTING: frozenset({Stage.PROBING, Stage.AMBIGUOUS, *_ENDS}),
    Stage.PROBING: frozenset({Stage.READY, *_ENDS}),
    Stage.READY: frozenset({Stage.BUSY, Stage.IDLE, *_ENDS}),
    Stage.BUSY: frozenset({Stage.IDLE, *_ENDS}),
    Stage.IDLE: frozenset({Stage.BUSY, *_ENDS}),
    Stage.DESTROYING: frozenset({Stage.GONE}),
    # an orphan
    Stage.NO_MACHINE: frozenset({Stage.DESTROYING}),
    Stage.GONE: frozenset({Stage.DESTROYING}),
}
# `code` of a machine that was found without the record of a current rental.
ORPHAN = "orphan"


@dataclass(frozen=True)
class Rental:
    """One rental. Times are in ms UTC."""

    #: `rent_` and a ULID.
    id: str
    #: Name of the provider, and so of the cloud.
    provider: str
    #: Where it is in its life cycle.
    stage: Stage
    #: Its label at the cloud, which distinguishes our machines from others; see providers/rental/labels.py.
    label: str
    #: When its intent was committed, or an orphan was found.
    created_at: int
    #: Since when it is in `stage`.
    stage_at: int
    #: When it is destroyed, even during a job.
    deadline: int
    #: The cloud's id of the offer that was taken; None for an orphan.
    offer_id: int | None = None
    #: The cloud's id of the physical machine.
    machine_id: int | None = None
    #: Name of its GPU; None if unknown.
    gpu: str | None = None
    #: Price in nano-dollars a second.
    nano_per_s: int = 0
    #: Price of traffic to the machine, in nano-dollars per GB.
    down_nano_per_gb: int = 0
    #: Price of traffic from the machine, in nano-dollars per GB.
    up_nano_per_gb: int = 0
    #: Cost of its traffic on the day (UTC) of `traffic_at` so far, in nano-dollars.
    traffic_nano: int = 0
    #: When it last had traffic that was counted; None before the pull of the image.
    traffic_at: int | None = None
    #: Id of the first attempt that it got, which bears the cost of the image's pull.
    first_attempt_id: str | None = None
    #: The cloud's id of the rented machine; None while it is not known.
    remote_id: int | None = None
    #: When the call that creates it was sent; from then on it may be billed.
    sent_at: int | None = None
    #: When its worker first responded.
    ready_at: int | None = None
    #: When it was gone, or known never to have existed.
    ended_at: int | None = None
    #: Public address of the worker's port; None while unknown.
    host: str | None = None
    #: Public number of the worker's port; None while unknown.
    port: int | None = None
    #: When the cloud last reported its address.
    seen_at: int | None = None
    #: When its worker last responded.
    heard_at: int | None = None
    #: Since when its worker has not responded; None while it does.
    silent_since: int | None = None
    #: Number of complete listings without it that prove that there is no machine.
    missing_needed: int = 2
    #: Number of complete listings without it so far, counting only those far enough apart.
    missing_seen: int = 0
    #: When the last of these was read.
    missing_at: int | None = None
    #: Number of requests to destroy it.
    destroy_tries: int = 0
    #: Why it ends or ended: a code for programs. A usable machine with a code gets no more jobs.
    code: str | None = None
    #: Why it ends or ended, as text for people.
    reason: str | None = None

    @property
    def uuid(self) -> str:
        """Its UUID: the name of its secrets, and a part of its label."""
        return uuid_of(self.id)

    def remote_id_of(self, attempt_id: str) -> str:
        """The remote id of an attempt on this machine."""
        return f"{self.id}:{attempt_id}"

    def has(self, remote_id: str | None) -> bool:
        """Whether the attempt with this remote id is on this machine."""
        return rental_of(remote_id) == self.id

    def usable_until(self, timeout_s: int) -> int:
        """Until when it may begin a job with this time limit, in ms UTC."""
        return self.deadline - timeout_s * 1000 - MARGIN_MS

    @property
    def traffic_price(self) -> TrafficPrice:
        return TrafficPrice(self.down_nano_per_gb, self.up_nano_per_gb)

    def today_nano(self, now: int) -> float:
        """What it has cost on the day (UTC) of `now` so far, in nano-dollars."""
        if self.sent_at is None or self.stage is Stage.NO_MACHINE:
            return 0.0
        midnight = now - now % DAY_MS
        seconds = max(0, (self.ended_at or now) - max(midnight, self.sent_at)) / 1000
        return seconds * self.nano_per_s + (self.traffic_nano if (self.traffic_at or 0) >= midnight else 0)

    def with_traffic(self, nano: int, now: int) -> Rental:
        """Add the cost of traffic at `now`."""
        today = self.traffic_at is not None and self.traffic_at // DAY_MS == now // DAY_MS
        return replace(self, traffic_nano=nano + (self.traffic_nano if today else 0), traffic_at=now)


@dataclass(frozen=True)
class FleetState:
    """The last findings of a provider's fleet manager."""

    #: When it last read a complete listing, in ms UTC.
    looked_at: int | None = None
    #: Why no machine can be rented: a code for programs; None if nothing prevents it.
    trouble_code: str | None = None
    #: Why no machine can be rented, as text for people.
    trouble: str | None = None
    #: When that was found, in ms UTC.
    trouble_at: int | None = None


def rental_of(remote_id: str | None) -> str:
    """The id of the rental in an attempt's remote id; empty when it has none."""
    return (remote_id or "").partition(":")[0]


def attempt_of(remote_id: str | None) -> str:
    """The id of the attempt in a remote id; empty when it has none."""
    return (remote_id or "").partition(":")[2]


def uuid_of(rental_id: str) -> str:
    return str(ULID.from_str(rental_id.rpartition("_")[2]).to_uuid())


def move(rental: Rental, stage: Stage, now: int, **changes: Any) -> Rental:
    """Return the rental in another stage. Raises IllegalChange for a change that is not in CHANGES."""
    if stage not in CHANGES[rental.stage]:
        raise IllegalChange(f"rental {rental.id}: {rental.stage} → {stage}")
    if stage in OVER:
        changes["ended_at"] = now
    if stage is Stage.DESTROYING:
        changes |= {"ended_at": None, "missing_needed": 2, "missing_seen": 0, "missing_at": None}
    return replace(rental, stage=stage, stage_at=now, **changes)
