"""Records what one round of the fleet manager finds, while the round holds its lease."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from common.clock import Clock
from gateway.db import rental_store
from gateway.db.rental_store import Rentals
from gateway.db.store import Store
from gateway.db.transaction import Transaction
from gateway.domain.rentals import OVER, FleetState, Rental, Stage, move
from gateway.providers.rental.cloud import Machine

log = structlog.get_logger(__name__)

# `trouble_code` while the cloud returns no complete listing.
INCONCLUSIVE = "inconclusive_listing"
# A round starts no call after this time, so that it ends before its lease of one minute does.
ROUND_S = 35.0
AVOID_MS = 3_600_000


class RentalWriter:
    """Every write checks that the lease is still held under this round's token, and raises StaleLease otherwise."""

    def __init__(self, store: Store, provider: str, clock: Clock, lease: str, token: str) -> None:
        self.rows = Rentals(store, provider)
        self._store, self._provider, self._clock = store, provider, clock
        self._lease, self._token = lease, token
        self._ends_at = time.monotonic() + ROUND_S

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def late(self) -> bool:
        """Whether the round has used up its time."""
        return time.monotonic() > self._ends_at

    def transaction(self, do: Callable[[Transaction], Any]) -> Any:
        """Call `do` in a transaction during which the lease cannot be taken over."""
        with self._store.transaction() as tx:
            rental_store.must_hold(tx, self._lease, self._token)
            return do(tx)

    def insert(self, rental: Rental) -> None:
        self.transaction(lambda tx: rental_store.insert(tx, rental))
        self._log(rental, before=None)

    def change(self, rental: Rental, to: Callable[[Rental], Rental]) -> Rental:
        """Apply `to` to the current record, save the result and return it."""

        def write(tx: Transaction) -> Rental:
            fresh = rental_store.one_locked(tx, rental.id)
            changed = to(fresh)
            if changed != fresh:
                rental_store.save(tx, changed)
            return changed

        changed: Rental = self.transaction(write)
        if changed.stage is not rental.stage:
            self._log(changed, before=rental.stage)
        return changed

    def end(self, rental: Rental, code: str, reason: str, *, avoid: bool = False, unless_used: bool = False) -> None:
        """Mark the rental for destruction; with `unless_used`, only if it has no job."""

        def write(tx: Transaction) -> Rental | None:
            fresh = rental_store.one_locked(tx, rental.id)
            if fresh.stage is Stage.DESTROYING or fresh.stage in OVER or (unless_used and self.has_job(tx, fresh)):
                return None
            ending = move(fresh, Stage.DESTROYING, self.now_ms(), code=code, reason=reason)
            rental_store.save(tx, ending)
            return ending

        if avoid:
            self.avoid(rental, reason)
        if ending := self.transaction(write):
            self._log(ending, before=rental.stage)

    def drain(self, rental: Rental, code: str, reason: str) -> None:
        """Give the rental no more jobs, avoid its machine, and destroy it once it has no job."""

        def write(tx: Transaction) -> None:
            fresh = rental_store.one_locked(tx, rental.id)
            if fresh.stage is not Stage.DESTROYING and fresh.stage not in OVER:
                rental_store.save(tx, replace(fresh, code=code, reason=reason))

        if rental.code != code:
            self.avoid(rental, reason)
            self.transaction(write)
            log.info("rental.draining", provider=self._provider, rental_id=rental.id, code=code, reason=reason)
        self.end(rental, code, reason, unless_used=True)

    def has_job(self, tx: Transaction, rental: Rental) -> bool:
        return any(rental.has(attempt.remote_id) for attempt in rental_store.bound(tx, self._provider))

    def avoid(self, rental: Rental, reason: str) -> None:
        """Exclude its physical machine from renting for a while."""
        machine_id, until = rental.machine_id, self.now_ms() + AVOID_MS
        if machine_id is not None:
            self.transaction(lambda tx: rental_store.avoid(tx, self._provider, machine_id, until, reason))

    def disown(self, rental: Rental, machine: Machine) -> None:
        """Forget the id of a machine that has another label; such a machine is never touched."""
        now, stage = self.now_ms(), Stage.AMBIGUOUS if rental.stage is Stage.BOOTING else Stage.GONE
        log.error("rental.disowned", provider=self._provider, rental_id=rental.id, remote_id=machine.id)
        why = {"remote_id": None, "code": "not_ours", "reason": "its id is that of a machine with another label"}
        self.change(rental, lambda i: move(i, stage, now, **why) if i.stage is rental.stage else i)

    def note(self, code: str | None, reason: str | None) -> None:
        """Record why nothing can be rented; None clears it."""
        at = self.now_ms() if code else None
        self._save(replace(self.rows.fleet_state(), trouble_code=code, trouble=reason, trouble_at=at))

    def listed(self) -> None:
        """Record a complete listing. Clears the trouble INCONCLUSIVE; any other remains until it expires."""
        state = replace(self.rows.fleet_state(), looked_at=self.now_ms())
        if state.trouble_code == INCONCLUSIVE:
            state = replace(state, trouble_code=None, trouble=None, trouble_at=None)
        self._save(state)

    def _save(self, state: FleetState) -> None:
        self.transaction(lambda tx: rental_store.save_fleet_state(tx, self._provider, state))

    def _log(self, rental: Rental, before: Stage | None) -> None:
        log.info(
            "rental.stage_changed",
            provider=self._provider,
            rental_id=rental.id,
            stage=str(rental.stage),
            before=None if before is None else str(before),
            remote_id=rental.remote_id,
            gpu=rental.gpu,
            code=rental.code,
            reason=rental.reason,
        )
