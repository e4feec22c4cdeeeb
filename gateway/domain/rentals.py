"""Rented machines: what is recorded of each, its stages and their legal changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ulid import ULID

from gateway.domain.attempts import IllegalChange
from gateway.domain.jobs import MARGIN_MS


class Stage(StrEnum):
    """Of a rented machine."""

    INTENT = "intent"
    CREATING = "creating"
    AMBIGUOUS = "ambiguous"
    NO_INSTANCE = "no_instance"
    BOOTING = "booting"
    PROBING = "probing"
    READY = "ready"
    BUSY = "busy"
    IDLE = "idle"
    DESTROYING = "destroying"
    GONE = "gone"


OVER = frozenset({Stage.NO_INSTANCE, Stage.GONE})
# A machine is coming, or nobody knows that none is.
COMING = frozenset({Stage.INTENT, Stage.CREATING, Stage.AMBIGUOUS, Stage.BOOTING, Stage.PROBING})
USABLE = frozenset({Stage.READY, Stage.BUSY, Stage.IDLE})
_ENDS = frozenset({Stage.DESTROYING, Stage.GONE})

CHANGES: Mapping[Stage, frozenset[Stage]] = {
    Stage.INTENT: frozenset({Stage.CREATING, Stage.NO_INSTANCE}),
    Stage.CREATING: frozenset({Stage.BOOTING, Stage.AMBIGUOUS}),
    Stage.AMBIGUOUS: frozenset({Stage.BOOTING, Stage.NO_INSTANCE}),
    # back again when the id that was told is somebody else's
    Stage.BOOTING: frozenset({Stage.PROBING, Stage.AMBIGUOUS, *_ENDS}),
    Stage.PROBING: frozenset({Stage.READY, *_ENDS}),
    Stage.READY: frozenset({Stage.BUSY, Stage.IDLE, *_ENDS}),
    Stage.BUSY: frozenset({Stage.IDLE, *_ENDS}),
    Stage.IDLE: frozenset({Stage.BUSY, *_ENDS}),
    Stage.DESTROYING: frozenset({Stage.GONE}),
    # It was there after all.
    Stage.NO_INSTANCE: frozenset({Stage.DESTROYING}),
    Stage.GONE: frozenset({Stage.DESTROYING}),
}
# `code` of a machine that was found without a living record.
ORPHAN = "orphan"


@dataclass(frozen=True)
class Rental:
    """One rental. Times in ms UTC, `nano_per_s` in nano-dollars a second; `remote_id` is the provider's own id.

    `deadline`: when it is destroyed at the latest. `seen_at`: when the provider last told where it is. `heard_at`: when
    its worker last answered; `silent_since`: since when it has not. `missing_seen`: how many complete listings lacked
    it, the last one at `missing_at`; `missing_needed` of them are proof. `code` and `reason` say why it ends or ended.
    """

    id: str
    provider: str
    stage: Stage
    label: str
    created_at: int
    stage_at: int
    deadline: int
    offer_id: int | None = None
    machine_id: int | None = None
    gpu: str | None = None
    nano_per_s: int = 0
    remote_id: int | None = None
    sent_at: int | None = None
    ready_at: int | None = None
    ended_at: int | None = None
    host: str | None = None
    port: int | None = None
    seen_at: int | None = None
    heard_at: int | None = None
    silent_since: int | None = None
    missing_needed: int = 2
    missing_seen: int = 0
    missing_at: int | None = None
    destroy_tries: int = 0
    code: str | None = None
    reason: str | None = None

    @property
    def uuid(self) -> str:
        """Its UUID: the name of its secrets, and a part of its label."""
        return uuid_of(self.id)

    def usable_until(self, timeout_s: int) -> int:
        """Until when it may begin a job that may take so long."""
        return self.deadline - timeout_s * 1000 - MARGIN_MS

    def paid_s(self, since: int, now: int) -> float:
        """Seconds that it was paid for from `since` on."""
        if self.sent_at is None or self.stage is Stage.NO_INSTANCE:
            return 0.0
        return max(0, (self.ended_at or now) - max(since, self.sent_at)) / 1000


@dataclass(frozen=True)
class FleetState:
    """What the one who looks after a provider's machines found last.

    `looked_at`: when a complete listing was seen. `trouble`: why no machine can be rented, as it was at `trouble_at`.
    """

    looked_at: int | None = None
    trouble_code: str | None = None
    trouble: str | None = None
    trouble_at: int | None = None


def uuid_of(rental_id: str) -> str:
    return str(ULID.from_str(rental_id.rpartition("_")[2]).to_uuid())


def move(rental: Rental, stage: Stage, now: int, **changes: Any) -> Rental:
    """Raises IllegalChange for one that CHANGES does not have."""
    if stage not in CHANGES[rental.stage]:
        raise IllegalChange(f"rental {rental.id}: {rental.stage} → {stage}")
    if stage in OVER:
        changes["ended_at"] = now
    if stage is Stage.DESTROYING:
        changes |= {"ended_at": None, "missing_needed": 2, "missing_seen": 0, "missing_at": None}
    return replace(rental, stage=stage, stage_at=now, **changes)
