"""The tables of rented machines."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from common.clock import DAY_MS
from gateway.db.rows import to_attempt
from gateway.db.store import Store
from gateway.db.tables import attempts, avoided_machines, fleets, jobs, leases, rentals
from gateway.db.transaction import StaleLease, Transaction
from gateway.domain import ids
from gateway.domain.attempts import ENDED, Attempt, AttemptState
from gateway.domain.rentals import ORPHAN, OVER, FleetState, Rental, Stage, rental_of
from wire.errors import EncoderUnavailable, EncoderUnsuitable


class Rentals:
    """The rentals of one provider, read outside transactions."""

    def __init__(self, store: Store, provider: str) -> None:
        self._store, self._provider = store, provider

    def get(self, rental_id: str) -> Rental | None:
        found = self._select(rentals.c.id == rental_id)
        return found[0] if found else None

    def living(self) -> list[Rental]:
        """Rentals that are not over, oldest first."""
        return self._select(rentals.c.stage.not_in(OVER))

    def ended_since(self, at: int) -> list[Rental]:
        """Rentals that ended at `at` or later, oldest first."""
        return self._select(rentals.c.stage.in_(OVER), rentals.c.ended_at >= at)

    def over_budget(self, dollars: float, now: int) -> bool:
        """Whether the rentals of this day (UTC) have cost at least `dollars`."""
        today = now - now % DAY_MS
        return sum(rental.today_nano(now) for rental in [*self.living(), *self.ended_since(today)]) >= dollars * 1e9

    def labelled(self, label: str) -> list[Rental]:
        return self._select(rentals.c.label == label)

    def prices(self, limit: int = 50) -> list[tuple[str, int]]:
        """(GPU, nano-dollars a second) of the most recent rentals, newest first."""
        query = sa.select(rentals.c.gpu, rentals.c.nano_per_s).order_by(rentals.c.id.desc()).limit(limit)
        known = sa.and_(rentals.c.provider == self._provider, rentals.c.gpu.is_not(None))
        return self._store.pairs(query.where(known))

    def avoided(self, now: int) -> set[int]:
        """Ids of the physical machines that must not be rented now."""
        query = sa.select(avoided_machines.c.machine_id).where(
            avoided_machines.c.provider == self._provider, avoided_machines.c.until > now
        )
        return {row["machine_id"] for row in self._store.rows(query)}

    def open_attempts(self) -> list[Attempt]:
        """The newest attempts of unfinished jobs that are with this provider."""
        return _unended(self._store.rows(_newest_attempts(self._provider)))

    def outcomes(self, since: int) -> dict[str, list[str | None]]:
        """Error codes of ended attempts that were created at `since` or later, by rental, newest first.

        None stands for an attempt that ended without an error. One whose GPU failed counts as `encoder_unavailable`,
        even if the CPU has done its work.
        """
        recent = sa.and_(attempts.c.id >= ids.first("att", since), attempts.c.provider == self._provider)
        ended = sa.and_(recent, attempts.c.state.in_(ENDED), attempts.c.remote_id.is_not(None))
        refused = attempts.c.gpu_failure.is_not(None)
        code = sa.case((refused, EncoderUnavailable.code), else_=attempts.c.error_code)
        query = sa.select(attempts.c.remote_id, code).where(ended)
        found: dict[str, list[str | None]] = {}
        for remote_id, code in self._store.pairs(query.order_by(attempts.c.ended_at.desc(), attempts.c.id.desc())):
            found.setdefault(rental_of(remote_id), []).append(code)
        return found

    def fleet_state(self) -> FleetState:
        columns = (fleets.c.looked_at, fleets.c.trouble_code, fleets.c.trouble, fleets.c.trouble_at)
        found = self._store.rows(sa.select(*columns).where(fleets.c.provider == self._provider))
        return FleetState(**found[0]) if found else FleetState()

    def _select(self, *where: sa.ColumnElement[bool]) -> list[Rental]:
        query = sa.select(rentals).where(rentals.c.provider == self._provider, *where).order_by(rentals.c.id)
        return [_to_rental(row) for row in self._store.rows(query)]


def orphans(store: Store) -> int:
    """Number of machines that were found without the record of a current rental."""
    return store.scalar(sa.select(sa.func.count()).select_from(rentals).where(rentals.c.code == ORPHAN)) or 0


@dataclass(frozen=True)
class Spending:
    """What rentals cost."""

    #: Nano-dollars a second, now.
    nano_per_s: int
    #: Nano-dollars on this day (UTC) so far.
    today_nano: float
    #: When the oldest rental in DESTROYING entered it, in ms UTC; None if there is none.
    ending_since: int | None


def spending(store: Store, now: int) -> Spending:
    """What the rentals of all providers cost."""
    today = now - now % DAY_MS
    recent = sa.or_(rentals.c.stage.not_in(OVER), rentals.c.ended_at >= today)
    found = [_to_rental(row) for row in store.rows(sa.select(rentals).where(recent))]
    paid = [i for i in found if i.stage not in OVER and i.sent_at is not None]
    return Spending(
        nano_per_s=sum(i.nano_per_s for i in paid),
        today_nano=sum(rental.today_nano(now) for rental in found),
        ending_since=min((i.stage_at for i in found if i.stage is Stage.DESTROYING), default=None),
    )


def must_hold(tx: Transaction, name: str, holder: str) -> None:
    """Raise StaleLease if the lease `name` was released or taken over. An expired lease is still held until then.

    Nothing else can take it over before this transaction ends.
    """
    query = sa.select(leases.c.holder).where(leases.c.name == name).with_for_update()
    if tx.connection.scalar(query) != holder:
        raise StaleLease(name)


def release(tx: Transaction, name: str, holder: str) -> None:
    """Release the lease `name` if `holder` still holds it. It stays released even if the clock is set back."""
    mine = sa.and_(leases.c.name == name, leases.c.holder == holder)
    tx.connection.execute(leases.update().where(mine).values(expires_at=0))


def locked(tx: Transaction, provider: str, stages: Collection[Stage]) -> list[Rental]:
    """The provider's rentals in these stages, locked until this transaction ends."""
    here = sa.and_(rentals.c.provider == provider, rentals.c.stage.in_(stages))
    query = sa.select(rentals).where(here).order_by(rentals.c.id).with_for_update()
    return [_to_rental(row) for row in tx.connection.execute(query).mappings()]


def one_locked(tx: Transaction, rental_id: str) -> Rental:
    query = sa.select(rentals).where(rentals.c.id == rental_id).with_for_update()
    return _to_rental(tx.connection.execute(query).mappings().one())


def add_traffic(tx: Transaction, rental_id: str, nano: int, now: int) -> None:
    """Add the cost of an attempt's traffic to the rental that it was on, if that is still recorded."""
    query = sa.select(rentals).where(rentals.c.id == rental_id).with_for_update()
    if row := tx.connection.execute(query).mappings().first():
        save(tx, _to_rental(row).with_traffic(nano, now))


def insert(tx: Transaction, rental: Rental) -> None:
    tx.connection.execute(rentals.insert().values(**asdict(rental)))


def save(tx: Transaction, rental: Rental) -> None:
    tx.connection.execute(rentals.update().where(rentals.c.id == rental.id).values(**asdict(rental)))


def bound(tx: Transaction, provider: str) -> list[Attempt]:
    """The unfinished attempts that are bound to a machine of the provider."""
    query = _newest_attempts(provider).where(attempts.c.remote_id.is_not(None))
    return _unended(tx.connection.execute(query).mappings())


def refused(tx: Transaction, job_id: str) -> set[str]:
    """Ids of the rentals that had no encoder for the job."""
    codes = (EncoderUnavailable.code, EncoderUnsuitable.code)
    had_none = sa.and_(attempts.c.job_id == job_id, attempts.c.error_code.in_(codes))
    return {rental_of(row[0]) for row in tx.connection.execute(sa.select(attempts.c.remote_id).where(had_none))}


def unbind(tx: Transaction, attempt_id: str) -> None:
    """Undo `bind`: no machine has the attempt."""
    first = rentals.c.first_attempt_id == attempt_id
    tx.connection.execute(rentals.update().where(first).values(first_attempt_id=None))
    bind(tx, attempt_id, None)


def bind(tx: Transaction, attempt_id: str, remote_id: str | None) -> bool:
    """Record which machine gets the attempt. Return False if it is no longer an intent."""
    query = attempts.update().where(attempts.c.id == attempt_id, attempts.c.state == AttemptState.INTENT)
    return tx.connection.execute(query.values(remote_id=remote_id)).rowcount == 1


def avoid(tx: Transaction, provider: str, machine_id: int, until: int, reason: str) -> None:
    record = {"provider": provider, "machine_id": machine_id, "until": until, "reason": reason}
    tx.upsert(avoided_machines, record, "provider", "machine_id")


def delete_ended(tx: Transaction, until: int, limit: int) -> int:
    """Delete the oldest rentals that ended at or before `until`. Return their number."""
    # as for jobs, the condition on the primary key limits the scan to old rows
    old = sa.and_(rentals.c.id < ids.first("rent", until + 1), rentals.c.ended_at <= until)
    oldest = sa.select(rentals.c.id).where(old, rentals.c.stage.in_(OVER)).order_by(rentals.c.id).limit(limit)
    return tx.connection.execute(rentals.delete().where(rentals.c.id.in_(oldest))).rowcount


def forget_avoided(tx: Transaction, now: int) -> None:
    """Delete the machines that are no longer avoided."""
    tx.connection.execute(avoided_machines.delete().where(avoided_machines.c.until <= now))


def save_fleet_state(tx: Transaction, provider: str, state: FleetState) -> None:
    tx.upsert(fleets, {"provider": provider, **asdict(state)}, "provider")


def _newest_attempts(provider: str) -> sa.Select[Any]:
    """The newest attempts of unfinished jobs that are with this provider."""
    newest = sa.and_(attempts.c.id == jobs.c.attempt_id, attempts.c.provider == provider)
    return sa.select(attempts).join_from(jobs, attempts, newest).where(jobs.c.next_at > 0)


def _unended(rows: Iterable[Mapping[Any, Any]]) -> list[Attempt]:
    return [attempt for attempt in map(to_attempt, rows) if not attempt.ended]


def _to_rental(row: Mapping[Any, Any]) -> Rental:
    return Rental(**{**row, "stage": Stage(row["stage"])})
