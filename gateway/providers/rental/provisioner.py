"""Decides whether a machine is needed, reports why none can be rented, and makes the create call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog

from gateway.db.rental_store import Rentals
from gateway.domain import ids
from gateway.domain.attempts import AttemptState
from gateway.domain.rentals import COMING, ORPHAN, OVER, USABLE, Rental, Stage, move, rental_of, uuid_of
from gateway.providers.base import Context, NoCapacity, Unavailable
from gateway.providers.rental import labels
from gateway.providers.rental.addresses import Addresses
from gateway.providers.rental.cloud import CANNOT_PAY, Cloud, NotCreated, Offer, Order
from gateway.providers.rental.environment import PORT, environment
from gateway.providers.rental.settings import RentalSettings
from gateway.providers.rental.writer import RentalWriter

log = structlog.get_logger(__name__)

# Renting pauses after this many failed rentals in a row within this time.
MAX_FAILURES = 5
FAILURES_MS = 600_000
# How long renting pauses after the cloud has refused a payment.
REFUSED_MS = 300_000
OFFERS_KEPT_MS = 60_000
OFFER_AVOIDED_MS = 3_600_000
# A create call that was decided on longer ago is not sent: this process was suspended, and another has taken over.
DECIDED_MS = 20_000


class Provisioner:
    """Rents at most one machine per round, as the round's last step."""

    def __init__(self, context: Context, settings: RentalSettings, cloud: Cloud, addresses: Addresses) -> None:
        self._settings, self._cloud, self._addresses = settings, cloud, addresses
        self._signer, self._clock = context.signer, context.clock
        self._timeout_s = context.settings.job_timeout_seconds
        self._offers: tuple[int, Sequence[Offer]] | None = None

    def rent(self, writer: RentalWriter) -> None:
        """Rent one machine if waiting jobs need it and nothing prevents it. Raises StaleLease."""
        if not self._wanted(writer.rows):
            return
        try:
            offer, allowed = self._offer(writer.rows), self._addresses.allowed()
        except (NoCapacity, Unavailable) as error:
            log.warning("rental.declined", provider=self._cloud.name, code=error.code, reason=str(error))
            writer.note(error.code, str(error))
            return
        rental = self._intend(writer, offer)
        try:
            self._cloud.await_create()
        except Unavailable as error:
            log.warning("rental.declined", provider=self._cloud.name, code=error.code, reason=str(error))
            return  # the next round finds an intent that was never sent
        self._create(writer, rental, offer, allowed)

    def _wanted(self, rows: Rentals) -> bool:
        living, now = rows.living(), self._clock.now_ms()
        serving = {
            rental.id
            for rental in living
            if rental.stage in COMING
            or (rental.stage in USABLE and rental.code is None and now < rental.usable_until(self._timeout_s))
        }
        # An attempt on a machine that takes no further ones ends there, or counts again when it returns to the queue.
        demand = sum(
            attempt.state is AttemptState.INTENT
            if attempt.remote_id is None
            else rental_of(attempt.remote_id) in serving
            for attempt in rows.open_attempts()
        )
        wanted = min(self._settings.max_instances, math.ceil(demand / self._settings.concurrency))
        # a machine that is being destroyed may still be billed, so it counts against the maximum
        return len(serving) < wanted and len(living) < self._settings.max_instances

    def _offer(self, rows: Rentals) -> Offer:
        """Return the offer to rent. Raises NoCapacity, or Unavailable when something is wrong with the account."""
        now = self._clock.now_ms()
        if (failed := self._failed_in_a_row(rows, now)) >= MAX_FAILURES:
            raise NoCapacity(f"the last {failed} rented machines did not come up; nothing is rented for a while")
        if any(rental.code == CANNOT_PAY for rental in [*rows.living(), *rows.ended_since(now - REFUSED_MS)]):
            raise Unavailable(f"{self._cloud.title} says that the account cannot pay")
        if rows.over_budget(self._settings.daily_budget, now):
            raise NoCapacity(budget_spent(self._settings))
        if (credit := self._cloud.credit()) < self._settings.min_credit:
            raise Unavailable(f"the {self._cloud.title} account has {credit:.2f} dollars left")
        found = free(self._market(), rows, now)
        if not found:
            raise NoCapacity(f"{self._cloud.title} has no machine that fits")
        return found[0]

    def _failed_in_a_row(self, rows: Rentals, now: int) -> int:
        recent = [*rows.living(), *rows.ended_since(now - FAILURES_MS)]
        worked_at = max((rental.ready_at for rental in recent if rental.ready_at is not None), default=0)
        return sum(
            rental.stage in {*OVER, Stage.DESTROYING}
            and rental.ready_at is None
            and rental.code not in {ORPHAN, "never_sent"}
            and rental.created_at > worked_at
            for rental in recent
        )

    def _market(self) -> Sequence[Offer]:
        now = self._clock.now_ms()
        if self._offers is None or not 0 <= now - self._offers[0] < OFFERS_KEPT_MS:
            self._offers = now, self._cloud.search()
        return self._offers[1]

    def _intend(self, writer: RentalWriter, offer: Offer) -> Rental:
        now = self._clock.now_ms()
        rental_id = ids.new("rent", now)
        rental = Rental(
            id=rental_id,
            provider=self._cloud.name,
            stage=Stage.INTENT,
            label=labels.label(self._settings.deployment or "", uuid_of(rental_id), now // 1000),
            created_at=now,
            stage_at=now,
            deadline=now + self._settings.max_lifetime * 1000,
            offer_id=offer.id,
            machine_id=offer.machine_id,
            gpu=offer.gpu,
            nano_per_s=offer.nano_per_s,
            down_nano_per_gb=offer.traffic.down,
            up_nano_per_gb=offer.traffic.up,
        )
        writer.insert(rental)
        return rental

    def _create(self, writer: RentalWriter, rental: Rental, offer: Offer, allowed: tuple[str, ...]) -> None:
        variables = environment(self._settings, self._signer, rental.uuid, allowed)
        order = Order(self._settings.worker_image or "", rental.label, variables, PORT)
        decided = self._clock.now_ms()
        pull_nano = offer.traffic.nano(self._settings.image_bytes, 0)
        rental = writer.change(
            rental, lambda i: move(i, Stage.CREATING, decided, sent_at=decided).with_traffic(pull_nano, decided)
        )
        if self._clock.now_ms() - decided > DECIDED_MS:
            return  # the next round finds out that there is no machine
        try:
            remote_id = self._cloud.create(offer, order)
        except NotCreated as error:
            log.warning(
                "rental.create_failed",
                provider=self._cloud.name,
                rental_id=rental.id,
                code=error.code,
                reason=str(error),
            )
            now = self._clock.now_ms()
            # the machine, if there is one, is found by its label
            why = {"code": error.code, "reason": str(error), "missing_needed": 1 if error.certain else 2}
            writer.change(rental, lambda i: move(i, Stage.AMBIGUOUS, now, **why))
            return
        now = self._clock.now_ms()
        writer.change(rental, lambda i: move(i, Stage.BOOTING, now, remote_id=remote_id))
        writer.note(None, None)


def budget_spent(settings: RentalSettings) -> str:
    return f"the day's budget of {settings.daily_budget} dollars is spent"


def free(found: Sequence[Offer], rows: Rentals, now: int) -> list[Offer]:
    """Return the offers without machines that failed recently and without offers that were taken or tried."""
    avoided, recent = rows.avoided(now), [*rows.living(), *rows.ended_since(now - OFFER_AVOIDED_MS)]
    # a create call that was never sent, or could not be paid for, does not count against the offer
    blameless = {"never_sent", CANNOT_PAY}
    taken = {
        rental.offer_id
        for rental in recent
        if rental.stage not in OVER or (rental.ready_at is None and rental.code not in blameless)
    }
    return [o for o in found if o.machine_id not in avoided and o.id not in taken]
