"""Rents machines: whether one is wanted, why none can be had, and the one call that makes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from gateway.db import rental_store
from gateway.domain import ids, rentals
from gateway.domain.attempts import AttemptState
from gateway.domain.rentals import COMING, ORPHAN, USABLE, Rental, Stage, move, uuid_of
from gateway.providers.base import Context, NoCapacity, Unavailable
from gateway.providers.clouds.vast import PROVIDER, offers
from gateway.providers.clouds.vast.client import Client, NotCreated
from gateway.providers.clouds.vast.offers import Offer
from gateway.providers.rental import labels
from gateway.providers.rental.addresses import Addresses
from gateway.providers.rental.environment import environment
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.providers.rental.fleet import Reconciliation

log = structlog.get_logger(__name__)

# Rentals that came to nothing, one after the other, and the time in which so many of them are enough.
MOST_FAILURES = 5
FAILURES_MS = 600_000
# How long nothing is rented after Vast.ai said that we cannot pay.
REFUSED_MS = 300_000
OFFERS_KEPT_MS = 60_000
OFFER_AVOIDED_MS = 3_600_000
# A creation that was decided on longer ago is not sent: this process was stopped in between, and others went on.
DECIDED_MS = 20_000
_CANNOT_PAY = frozenset({"insufficient_credit", "spend_rate_limit"})


class Provisioner:
    """Rents at most one machine in a round, after everything else in it."""

    def __init__(self, context: Context, client: Client, addresses: Addresses) -> None:
        self._context, self._settings, self._clock = context, context.settings, context.clock
        self._client, self._addresses = client, addresses
        self._offers: tuple[int, list[Offer]] | None = None

    def rent(self, reconciliation: Reconciliation) -> None:
        """One machine, if waiting jobs want one more and nothing speaks against it. Raises StaleLease."""
        if not self._wanted(reconciliation):
            return
        try:
            offer, allowed = self._offer(reconciliation), self._addresses.allowed()
        except (NoCapacity, Unavailable) as error:
            log.warning("vast.nothing_rented", code=error.code, reason=str(error))
            reconciliation.note((error.code, str(error)))
            return
        rental = self._intend(reconciliation, offer)
        try:
            self._client.await_create()
        except Unavailable as error:
            log.warning("vast.nothing_rented", code=error.code, reason=str(error))
            return  # the next round finds an intent that nobody sent
        self._create(reconciliation, rental, offer, allowed)

    def offers(self, rows: rental_store.Rentals) -> list[Offer]:
        """What would be rented now, the best first. Raises Unavailable."""
        return free(self._market(), rows, self._clock.now_ms())

    def _wanted(self, reconciliation: Reconciliation) -> bool:
        living, now = reconciliation.rows.living(), self._clock.now_ms()
        serving = {
            i.id
            for i in living
            if i.stage in COMING or (i.stage in USABLE and now < i.usable_until(self._settings.job_timeout_seconds))
        }
        # What is on a machine that takes nothing more ends there, or comes back and waits.
        demand = sum(
            attempt.state is AttemptState.INTENT
            if attempt.remote_id is None
            else attempt.remote_id.split(":")[0] in serving
            for attempt in reconciliation.rows.open_attempts()
        )
        wanted = min(self._settings.vast_max_instances, math.ceil(demand / self._settings.vast_concurrency))
        # one that is being destroyed may still be paid for, and keeps its place
        return len(serving) < wanted and len(living) < self._settings.vast_max_instances

    def _offer(self, reconciliation: Reconciliation) -> Offer:
        """The one to rent. Raises NoCapacity, or Unavailable for what is wrong with the account."""
        now = self._clock.now_ms()
        if (failed := self._failed_in_a_row(reconciliation, now)) >= MOST_FAILURES:
            raise NoCapacity(f"the last {failed} rented machines did not come up; nothing is rented for a while")
        recent = [*reconciliation.rows.living(), *reconciliation.rows.ended_since(now - REFUSED_MS)]
        if any(rental.code in _CANNOT_PAY for rental in recent):
            raise Unavailable("Vast.ai says that the account cannot pay")
        if reconciliation.rows.over_budget(self._settings.vast_daily_budget, now):
            raise NoCapacity(budget_spent(self._settings))
        if (credit := self._client.credit()) < self._settings.vast_min_credit:
            raise Unavailable(f"the Vast.ai account has {credit:.2f} dollars left")
        found = self.offers(reconciliation.rows)
        if not found:
            raise NoCapacity("Vast.ai has no machine that fits")
        return found[0]

    def _failed_in_a_row(self, reconciliation: Reconciliation, now: int) -> int:
        recent = [*reconciliation.rows.living(), *reconciliation.rows.ended_since(now - FAILURES_MS)]
        worked_at = max((rental.ready_at for rental in recent if rental.ready_at is not None), default=0)
        failed = (*rentals.OVER, Stage.DESTROYING)
        return sum(
            rental.stage in failed
            and rental.ready_at is None
            and rental.code not in {ORPHAN, "never_sent"}
            and rental.created_at > worked_at
            for rental in recent
        )

    def _market(self) -> list[Offer]:
        now = self._clock.now_ms()
        if self._offers is None or not 0 <= now - self._offers[0] < OFFERS_KEPT_MS:
            self._offers = now, offers.usable(self._client.search(offers.query(self._settings)), self._settings)
        return self._offers[1]

    def _intend(self, reconciliation: Reconciliation, offer: Offer) -> Rental:
        now = self._clock.now_ms()
        rental_id = ids.new("rent", now)
        rental = Rental(
            id=rental_id,
            provider=PROVIDER,
            stage=Stage.INTENT,
            label=labels.label(self._settings.deployment or "", uuid_of(rental_id), now // 1000),
            created_at=now,
            stage_at=now,
            deadline=now + self._settings.vast_max_lifetime * 1000,
            offer_id=offer.id,
            machine_id=offer.machine_id,
            gpu=offer.gpu,
            nano_per_s=offer.nano_per_s,
        )
        reconciliation.transaction(lambda tx: rental_store.insert(tx, rental))
        log.info("vast.rental", rental_id=rental.id, stage="intent", gpu=offer.gpu, offer_id=offer.id)
        return rental

    def _create(self, reconciliation: Reconciliation, rental: Rental, offer: Offer, allowed: tuple[str, ...]) -> None:
        request = self._request(rental, allowed)
        decided = self._clock.now_ms()
        rental = reconciliation.change(rental, lambda i: move(i, Stage.CREATING, decided, sent_at=decided))
        if self._clock.now_ms() - decided > DECIDED_MS:
            return  # the next round finds out that there is no machine
        try:
            remote_id = self._client.create(offer.id, request)
        except NotCreated as error:
            log.warning("vast.create_failed", rental_id=rental.id, code=error.code, reason=str(error))
            self._not_created(reconciliation, rental, error)
            return
        now = self._clock.now_ms()
        reconciliation.change(rental, lambda i: move(i, Stage.BOOTING, now, remote_id=remote_id))
        reconciliation.note(None)

    def _not_created(self, reconciliation: Reconciliation, rental: Rental, error: NotCreated) -> None:
        now = self._clock.now_ms()
        # An id in an error may be anybody's: the machine, if there is one, is found by its label.
        needed = 1 if error.code == "no_such_ask" and error.instance_id is None else 2
        why = {"code": error.code, "reason": str(error), "missing_needed": needed}
        reconciliation.change(rental, lambda i: move(i, Stage.AMBIGUOUS, now, **why))

    def _request(self, rental: Rental, allowed: tuple[str, ...]) -> dict[str, object]:
        return {
            "client_id": "me",
            "image": self._settings.vast_worker_image,
            "runtype": "args",  # keeps the image's own entry point
            "disk": offers.DISK_GB,
            "label": rental.label,
            "cancel_unavail": True,
            "env": environment(self._settings, self._context.signer, rental.uuid, allowed),
        }


def budget_spent(settings: Settings) -> str:
    return f"the day's budget of {settings.vast_daily_budget} dollars is spent"


def free(found: list[Offer], rows: rental_store.Rentals, now: int) -> list[Offer]:
    """Without machines that failed lately, and offers that were taken or tried."""
    avoided, recent = rows.avoided(now), [*rows.living(), *rows.ended_since(now - OFFER_AVOIDED_MS)]
    # what was never sent, or not paid for, is not the offer's fault
    blameless = {"never_sent", *_CANNOT_PAY}
    taken = {
        rental.offer_id
        for rental in recent
        if rental.stage not in rentals.OVER or (rental.ready_at is None and rental.code not in blameless)
    }
    return [o for o in found if o.machine_id not in avoided and o.id not in taken]
