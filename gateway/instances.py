"""Rented machines: what is recorded of each, its states and legal changes, and the tables.

A rental's life: INTENT (committed before anything is sent) → CREATING (the call is being made) → BOOTING, or AMBIGUOUS
while nobody knows whether there is a machine → PROBING (it runs, its worker has not answered) → READY, BUSY and IDLE →
DESTROYING (committed before the first call to end it) → GONE, on proof alone. NO_INSTANCE: there never was a machine.
A machine that shows up although its record says that there is none is an orphan, and goes to DESTROYING.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Table
from ulid import ULID

from gateway import ids
from gateway.jobs import ENDED, MARGIN_MS, Attempt, IllegalChange, State
from gateway.store import (
    DAY_MS,
    ForeignText,
    StaleLease,
    Store,
    Transaction,
    attempts,
    jobs,
    leases,
    metadata,
    to_attempt,
)


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

instances = Table(
    "instances",
    metadata,
    Column("id", sa.String(40), primary_key=True),
    Column("provider", sa.String(32), nullable=False),
    Column("stage", sa.String(16), nullable=False, index=True),
    Column("label", sa.String(256), nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("stage_at", sa.BigInteger, nullable=False),
    Column("deadline", sa.BigInteger, nullable=False),
    Column("offer_id", sa.BigInteger),
    Column("machine_id", sa.BigInteger),
    Column("gpu", sa.String(64)),
    Column("nano_per_s", sa.BigInteger, nullable=False),
    Column("remote_id", sa.BigInteger),
    Column("sent_at", sa.BigInteger),
    Column("ready_at", sa.BigInteger),
    Column("ended_at", sa.BigInteger),
    Column("host", sa.String(255)),
    Column("port", sa.Integer),
    Column("seen_at", sa.BigInteger),
    Column("heard_at", sa.BigInteger),
    Column("silent_since", sa.BigInteger),
    Column("missing_needed", sa.Integer, nullable=False),
    Column("missing_seen", sa.Integer, nullable=False),
    Column("missing_at", sa.BigInteger),
    Column("destroy_tries", sa.Integer, nullable=False),
    Column("code", sa.String(64)),
    Column("reason", ForeignText),
)

avoided_machines = Table(
    "avoided_machines",
    metadata,
    Column("provider", sa.String(32), primary_key=True),
    Column("machine_id", sa.BigInteger, primary_key=True),
    Column("until", sa.BigInteger, nullable=False),
    Column("reason", ForeignText),
)

pools = Table(
    "pools",
    metadata,
    Column("provider", sa.String(32), primary_key=True),
    Column("looked_at", sa.BigInteger),
    Column("trouble_code", sa.String(64)),
    Column("trouble", ForeignText),
    Column("trouble_at", sa.BigInteger),
)


@dataclass(frozen=True)
class Instance:
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
    def rental(self) -> str:
        """Its UUID: the name of its secrets, and a part of its label."""
        return rental_of(self.id)

    def usable_until(self, timeout_s: int) -> int:
        """Until when it may begin a job that may take so long."""
        return self.deadline - timeout_s * 1000 - MARGIN_MS

    def paid_s(self, since: int, now: int) -> float:
        """Seconds that it was paid for from `since` on."""
        if self.sent_at is None or self.stage is Stage.NO_INSTANCE:
            return 0.0
        return max(0, (self.ended_at or now) - max(since, self.sent_at)) / 1000


@dataclass(frozen=True)
class Pool:
    """What the one who looks after a provider's machines found last.

    `looked_at`: when a complete listing was seen. `trouble`: why no machine can be rented, as it was at `trouble_at`.
    """

    looked_at: int | None = None
    trouble_code: str | None = None
    trouble: str | None = None
    trouble_at: int | None = None


def rental_of(instance_id: str) -> str:
    return str(ULID.from_str(instance_id.rpartition("_")[2]).to_uuid())


def move(instance: Instance, stage: Stage, now: int, **changes: Any) -> Instance:
    """Raises IllegalChange for one that CHANGES does not have."""
    if stage not in CHANGES[instance.stage]:
        raise IllegalChange(f"instance {instance.id}: {instance.stage} → {stage}")
    if stage in OVER:
        changes["ended_at"] = now
    if stage is Stage.DESTROYING:
        changes |= {"ended_at": None, "missing_needed": 2, "missing_seen": 0, "missing_at": None}
    return replace(instance, stage=stage, stage_at=now, **changes)


class Instances:
    """The rentals of one provider, read outside transactions."""

    def __init__(self, store: Store, provider: str) -> None:
        self._store, self._provider = store, provider

    def get(self, instance_id: str) -> Instance | None:
        found = self._select(instances.c.id == instance_id)
        return found[0] if found else None

    def living(self) -> list[Instance]:
        """Those that are not over, oldest first."""
        return self._select(instances.c.stage.not_in(OVER))

    def ended_since(self, at: int) -> list[Instance]:
        """Those that were over at `at` or later, oldest first."""
        return self._select(instances.c.stage.in_(OVER), instances.c.ended_at >= at)

    def over_budget(self, dollars: float, now: int) -> bool:
        """Whether the machines have cost so many dollars on this day (UTC)."""
        today = now - now % DAY_MS
        return _paid_nano([*self.living(), *self.ended_since(today)], now) >= dollars * 1e9

    def labelled(self, label: str) -> list[Instance]:
        return self._select(instances.c.label == label)

    def prices(self, limit: int = 50) -> list[tuple[str, int]]:
        """(GPU, nano-dollars a second) of the last rentals, newest first."""
        query = sa.select(instances.c.gpu, instances.c.nano_per_s).order_by(instances.c.id.desc()).limit(limit)
        known = sa.and_(instances.c.provider == self._provider, instances.c.gpu.is_not(None))
        with self._store.reading() as connection:
            return [(row[0], row[1]) for row in connection.execute(query.where(known))]

    def avoided(self, now: int) -> set[int]:
        """The machines that shall not be rented at the moment."""
        query = sa.select(avoided_machines.c.machine_id).where(
            avoided_machines.c.provider == self._provider, avoided_machines.c.until > now
        )
        with self._store.reading() as connection:
            return set(connection.scalars(query))

    def open_attempts(self) -> list[Attempt]:
        """The newest attempts of jobs that are not over, as far as this provider has them."""
        newest = sa.and_(attempts.c.id == jobs.c.attempt_id, attempts.c.provider == self._provider)
        query = sa.select(attempts).join_from(jobs, attempts, newest).where(jobs.c.next_at > 0)
        with self._store.reading() as connection:
            found = [to_attempt(row) for row in connection.execute(query).mappings()]
        return [attempt for attempt in found if not attempt.ended]

    def outcomes(self, since: int) -> dict[str, list[str | None]]:
        """By machine: the error codes of the attempts there that were made at `since` or later and ended, newest first.

        None for one that ended without an error.
        """
        recent = sa.and_(attempts.c.id >= ids.first("att", since), attempts.c.provider == self._provider)
        ended = sa.and_(recent, attempts.c.state.in_(ENDED), attempts.c.remote_id.is_not(None))
        query = sa.select(attempts.c.remote_id, attempts.c.error_code).where(ended)
        found: dict[str, list[str | None]] = {}
        with self._store.reading() as connection:
            for remote_id, code in connection.execute(query.order_by(attempts.c.ended_at.desc(), attempts.c.id.desc())):
                found.setdefault(remote_id.partition(":")[0], []).append(code)
        return found

    def pool(self) -> Pool:
        columns = (pools.c.looked_at, pools.c.trouble_code, pools.c.trouble, pools.c.trouble_at)
        with self._store.reading() as connection:
            row = connection.execute(sa.select(*columns).where(pools.c.provider == self._provider)).first()
        return Pool(*row) if row else Pool()

    def _select(self, *where: sa.ColumnElement[bool]) -> list[Instance]:
        query = sa.select(instances).where(instances.c.provider == self._provider, *where).order_by(instances.c.id)
        with self._store.reading() as connection:
            return [_to_instance(row) for row in connection.execute(query).mappings()]


def orphans(store: Store) -> int:
    """How many machines were ever found without a living record."""
    with store.reading() as connection:
        query = sa.select(sa.func.count()).select_from(instances).where(instances.c.code == ORPHAN)
        return connection.scalar(query) or 0


@dataclass(frozen=True)
class Spending:
    """What rentals cost, in nano-dollars: a second now, and on this day (UTC); `ending_since`: the oldest that goes."""

    nano_per_s: int
    today_nano: float
    ending_since: int | None


def spending(store: Store, now: int) -> Spending:
    today = now - now % DAY_MS
    recent = sa.or_(instances.c.stage.not_in(OVER), instances.c.ended_at >= today)
    with store.reading() as connection:
        rentals = [_to_instance(row) for row in connection.execute(sa.select(instances).where(recent)).mappings()]
    paid = [i for i in rentals if i.stage not in OVER and i.sent_at is not None]
    return Spending(
        nano_per_s=sum(i.nano_per_s for i in paid),
        today_nano=_paid_nano(rentals, now),
        ending_since=min((i.stage_at for i in rentals if i.stage is Stage.DESTROYING), default=None),
    )


def _paid_nano(rentals: Iterable[Instance], now: int) -> float:
    """What they cost on this day (UTC) so far, in nano-dollars."""
    today = now - now % DAY_MS
    return sum(rental.paid_s(today, now) * rental.nano_per_s for rental in rentals)


def must_hold(tx: Transaction, name: str, holder: str) -> None:
    """Raises StaleLease unless `holder` is still the one who holds the lease `name`, however late it is.

    Nobody can take the lease over before this transaction has ended.
    """
    query = sa.select(leases.c.holder).where(leases.c.name == name).with_for_update()
    if tx.connection.scalar(query) != holder:
        raise StaleLease(name)


def release(tx: Transaction, name: str, holder: str) -> None:
    """Let the next one have the lease `name`, if it still is `holder`'s, however far the clock goes back."""
    mine = sa.and_(leases.c.name == name, leases.c.holder == holder)
    tx.connection.execute(leases.update().where(mine).values(expires_at=0))


def locked(tx: Transaction, provider: str, stages: Collection[Stage]) -> list[Instance]:
    """The provider's machines in these stages, which nobody else changes before this transaction has ended."""
    here = sa.and_(instances.c.provider == provider, instances.c.stage.in_(stages))
    query = sa.select(instances).where(here).order_by(instances.c.id).with_for_update()
    return [_to_instance(row) for row in tx.connection.execute(query).mappings()]


def one_locked(tx: Transaction, instance_id: str) -> Instance:
    query = sa.select(instances).where(instances.c.id == instance_id).with_for_update()
    return _to_instance(tx.connection.execute(query).mappings().one())


def insert(tx: Transaction, instance: Instance) -> None:
    tx.connection.execute(instances.insert().values(**asdict(instance)))


def save(tx: Transaction, instance: Instance) -> None:
    tx.connection.execute(instances.update().where(instances.c.id == instance.id).values(**asdict(instance)))


def bound(tx: Transaction, provider: str) -> list[Attempt]:
    """The attempts that machines of the provider have or may have, by `remote_id`."""
    newest = sa.and_(attempts.c.id == jobs.c.attempt_id, attempts.c.provider == provider)
    query = sa.select(attempts).join_from(jobs, attempts, newest)
    query = query.where(jobs.c.next_at > 0, attempts.c.remote_id.is_not(None))
    found = [to_attempt(row) for row in tx.connection.execute(query).mappings()]
    return [attempt for attempt in found if not attempt.ended]


def bind(tx: Transaction, attempt_id: str, remote_id: str | None) -> bool:
    """Note who gets an attempt that nobody has taken yet. False when it is past that."""
    query = attempts.update().where(attempts.c.id == attempt_id, attempts.c.state == State.INTENT)
    return tx.connection.execute(query.values(remote_id=remote_id)).rowcount == 1


def avoid(tx: Transaction, provider: str, machine_id: int, until: int, reason: str) -> None:
    record = {"provider": provider, "machine_id": machine_id, "until": until, "reason": reason}
    tx.upsert(avoided_machines, record, "provider", "machine_id")


def delete_ended(tx: Transaction, until: int, limit: int) -> int:
    """Delete the oldest rentals that were over at `until` or before. Answers how many."""
    # As with jobs: by the primary key only old rows are looked at.
    old = sa.and_(instances.c.id < ids.first("inst", until + 1), instances.c.ended_at <= until)
    oldest = sa.select(instances.c.id).where(old, instances.c.stage.in_(OVER)).order_by(instances.c.id).limit(limit)
    return tx.connection.execute(instances.delete().where(instances.c.id.in_(oldest))).rowcount


def forget_avoided(tx: Transaction, now: int) -> None:
    """Delete what is not avoided any more."""
    tx.connection.execute(avoided_machines.delete().where(avoided_machines.c.until <= now))


def save_pool(tx: Transaction, provider: str, pool: Pool) -> None:
    tx.upsert(pools, {"provider": provider, **asdict(pool)}, "provider")


def _to_instance(row: Mapping[Any, Any]) -> Instance:
    return Instance(**{**row, "stage": Stage(row["stage"])})
