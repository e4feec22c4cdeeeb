"""Rented machines behind the provider's protocol: attempts go to the workers on the machines that the fleet rents.

The fleet rents for attempts that got NotYet. An attempt is bound to a machine in the database before it is sent to the
worker: its remote id, `<our rental>:<attempt>`, is already known when the worker's response is lost.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import structlog

from common.settings import variable
from gateway.db import rental_store
from gateway.db.rental_store import Rentals
from gateway.db.transaction import Transaction
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.prices import Price
from gateway.domain.rentals import COMING, USABLE, Rental, Stage, attempt_of, move, rental_of
from gateway.providers.base import Accepted, Context, JobInput, NoCapacity, NotYet, Phase, Remote, Unavailable
from gateway.providers.gpu_names import same_gpu
from gateway.providers.rental.cloud import Cloud, InconclusiveListing
from gateway.providers.rental.fleet import FleetManager
from gateway.providers.rental.provisioner import budget_spent
from gateway.providers.rental.settings import RentalSettings
from gateway.providers.rental.workers import Workers
from gateway.providers.rental.writer import INCONCLUSIVE

log = structlog.get_logger(__name__)

# How long an address is used without asking the cloud again.
ADDRESS_MS = 5_000
# How long a trouble that the fleet manager has recorded prevents renting.
TROUBLE_MS = 60_000
# How long to wait for a machine to be destroyed; it usually takes a few seconds.
LEAVING_MS = 30_000
CHECKED_S = 30.0
RETRY_S = 2.0
_BOOTING = frozenset({Stage.BOOTING, Stage.PROBING})


class RentalProvider:
    """Machines of one cloud's account, managed jointly by all gateways of one deployment."""

    def __init__(self, context: Context, settings: RentalSettings, cloud: Cloud) -> None:
        self.name = cloud.name
        self._store, self._clock, self._settings, self._cloud = context.store, context.clock, settings, cloud
        self._workers = Workers(context.signer)
        self._manager = FleetManager(context, settings, cloud, self._workers)
        self._rows = Rentals(context.store, self.name)
        self.queue_limit_s: int | None = settings.queue_limit_s
        self._check_lock = threading.Lock()
        self._checked_at = -CHECKED_S

    def submit(self, attempt: Attempt, job_input: JobInput) -> Accepted | NotYet:
        timeout_s = job_input.timeout_s
        closed = self._closed()
        coming = self._boots_for(attempt)  # before the records are read: a booting machine may be up by then
        with self._store.transaction() as tx:
            fresh = tx.attempt(attempt.id)
            if fresh is None or fresh.state is not AttemptState.INTENT:
                return NotYet("another process has the attempt", RETRY_S)
            rental = self._bound(tx, fresh, timeout_s, closed is None)
        if rental is None:
            if closed is not None:
                raise NoCapacity(closed)
            return replace(self._not_yet(), coming=coming)
        if (found := self._found(rental)) is None:
            self._unbind(attempt)
            return NotYet("the rented machine is gone", RETRY_S, coming)
        answer = self._workers.of(found).submit(job_input)
        if isinstance(answer, NotYet):
            self._unbind(attempt)
            return replace(answer, coming=coming)
        return Accepted(rental.remote_id_of(attempt.id))

    def poll(self, attempt: Attempt) -> Remote:
        if attempt.remote_id is None:
            raise NoCapacity("no machine was found for it before the gateway stopped")  # bound before it is sent
        rental = self._rental(attempt)
        return Remote(Phase.GONE) if rental is None else self._workers.of(rental).poll(attempt_of(attempt.remote_id))

    def cancel(self, attempt: Attempt) -> None:
        if (rental := self._rental(attempt)) is not None:
            self._workers.of(rental).cancel(attempt_of(attempt.remote_id))

    def reconcile(self) -> None:
        self._manager.reconcile()

    def check(self) -> None:
        with self._check_lock:
            if time.monotonic() - self._checked_at > CHECKED_S:
                self._cloud.credit()
                self._checked_at = time.monotonic()

    def workers(self) -> Mapping[str, int]:
        fleet = self._rows.fleet_state()
        if fleet.trouble_code == INCONCLUSIVE:
            raise Unavailable(fleet.trouble or "")
        return Counter(str(rental.stage) for rental in self._rows.living())

    def price(self, attempt: Attempt, gpu: str | None) -> Price:
        """Return a job's share of the price of the machine that has the attempt.

        Where none is recorded, use the price of the last machine with this GPU, of the last machine, or the maximum.
        The first attempt on a machine bears the pull of the image.
        """
        rental = self._rows.get(rental_of(attempt.remote_id))
        if rental is None or not rental.nano_per_s:
            return Price(self._usual(gpu) // self._settings.concurrency, self._settings.idle_timeout)
        traffic, first = rental.traffic_price, rental.first_attempt_id == attempt.id
        return Price(
            rental.nano_per_s // self._settings.concurrency,
            self._settings.idle_timeout,
            traffic,
            pull_nano=traffic.nano(self._settings.image_bytes, 0) if first else 0,
        )

    def _usual(self, gpu: str | None) -> int:
        """Nano-dollars a second."""
        known = self._rows.prices()
        same = [nano for name, nano in known if gpu is not None and same_gpu(name, gpu)]
        nano_per_s = (same or [nano for _, nano in known] or [0])[0]
        return nano_per_s or round(self._settings.max_price * 1e9 / 3600)

    def _closed(self) -> str | None:
        """Why no machine gets another attempt, so that all of them become idle and are destroyed."""
        if self._settings.max_instances == 0:
            return f"{variable(type(self._settings), 'max_instances')} is 0: nothing is rented"
        spent = self._rows.over_budget(self._settings.daily_budget, self._clock.now_ms())
        return budget_spent(self._settings) if spent else None

    def _bound(self, tx: Transaction, attempt: Attempt, timeout_s: int, more: bool) -> Rental | None:
        """Bind the attempt to a machine in the records and return the machine; None if none has a free slot.

        Without `more`, only the machine that it is already bound to counts: it may have been sent there before.
        """
        now = self._clock.now_ms()
        attempts, refused = rental_store.bound(tx, self.name), rental_store.refused(tx, attempt.job_id)

        def load(rental: Rental) -> int:
            return sum(rental.has(other.remote_id) for other in attempts if other.id != attempt.id)

        fit = [
            rental
            for rental in rental_store.locked(tx, self.name, USABLE)
            if (more or rental.has(attempt.remote_id))
            and rental.host is not None
            and rental.silent_since is None
            and (rental.code is None or rental.has(attempt.remote_id))  # a code: it is destroyed after its jobs
            and rental.id not in refused
            and load(rental) < self._settings.concurrency
            and now < rental.usable_until(timeout_s)
        ]
        if not fit:
            return None
        # prefer the machine that has it, then the busiest, so that the others become idle and are destroyed
        chosen = min(fit, key=lambda i: (not i.has(attempt.remote_id), -load(i), i.id))
        if not rental_store.bind(tx, attempt.id, chosen.remote_id_of(attempt.id)):
            return None
        taken = replace(chosen, first_attempt_id=chosen.first_attempt_id or attempt.id)
        taken = taken if taken.stage is Stage.BUSY else move(taken, Stage.BUSY, now)
        if taken != chosen:
            rental_store.save(tx, taken)
        return taken

    def _unbind(self, attempt: Attempt) -> None:
        with self._store.transaction() as tx:
            rental_store.unbind(tx, attempt.id)

    def _found(self, rental: Rental) -> Rental | None:
        """Return the rental with its present address, which may change at any time; None when it is gone."""
        if rental.remote_id is None or self._clock.now_ms() - (rental.seen_at or 0) < ADDRESS_MS:
            return rental
        try:
            machine = self._cloud.get(rental.remote_id)
        except InconclusiveListing as error:
            log.info("rental.lookup_failed", provider=self.name, rental_id=rental.id, reason=str(error))
            return rental
        if machine is None:
            return None
        if machine.host is None or machine.port is None:  # this call may omit them: keep those of the listing
            return rental
        return replace(rental, host=machine.host, port=machine.port)

    def _rental(self, attempt: Attempt) -> Rental | None:
        """The usable machine that the attempt is on."""
        rental = self._rows.get(rental_of(attempt.remote_id))
        return rental if rental is not None and rental.stage in USABLE else None

    def _boots_for(self, attempt: Attempt) -> bool:
        """Whether a booting machine will have a free slot for the attempt.

        Machines rented after the attempt's queue limit do not count, or a series of failed boots would hold it forever.
        """
        until = attempt.created_at + (self.queue_limit_s or 0) * 1000
        booting = [i for i in self._rows.living() if i.stage in _BOOTING and i.created_at <= until]
        ahead = (a for a in self._rows.open_attempts() if a.id < attempt.id)
        waiting = sum(a.state is AttemptState.INTENT and a.remote_id is None for a in ahead)
        return waiting < len(booting) * self._settings.concurrency

    def _not_yet(self) -> NotYet:
        """Why no machine takes a job now. Raises NoCapacity or Unavailable where none is coming either."""
        now, living, trouble = self._clock.now_ms(), self._rows.living(), self._trouble()
        booting = [i for i in living if i.stage in _BOOTING]
        if booting:
            so_far = max(0, now - min(i.sent_at or i.created_at for i in booting)) // 1000
            return NotYet(f"a machine is booting, {so_far} s so far", RETRY_S)
        busy = any(i.stage in USABLE for i in living)
        if isinstance(trouble, Unavailable) and not busy:
            raise trouble  # without the cloud, a rental under way cannot be confirmed
        if any(i.stage in COMING for i in living):
            return NotYet("a machine is being rented", RETRY_S)
        if busy:
            return NotYet("all rented machines are busy", RETRY_S)
        if trouble is not None:
            raise trouble
        if living and len(living) >= self._settings.max_instances:  # all of these are being destroyed
            why = "every place is held by a machine that is being destroyed"
            if now - max(i.stage_at for i in living) > LEAVING_MS:
                raise NoCapacity(f"{why}, and stays")
            return NotYet(why, RETRY_S)
        return NotYet("a machine will be rented", RETRY_S)

    def _trouble(self) -> NoCapacity | Unavailable | None:
        """Why nothing can be rented, if the fleet manager has recently recorded a reason."""
        fleet = self._rows.fleet_state()
        if fleet.trouble_at is None or not 0 <= self._clock.now_ms() - fleet.trouble_at < TROUBLE_MS:
            return None
        kind = Unavailable if fleet.trouble_code in {INCONCLUSIVE, Unavailable.code} else NoCapacity
        return kind(fleet.trouble or "")
