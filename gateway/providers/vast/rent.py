"""Rents machines: whether one is wanted, why none can be had, and the one call that makes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from gateway import ids, instances
from gateway.instances import COMING, ORPHAN, USABLE, Instance, Stage, move, rental_of
from gateway.jobs import State
from gateway.providers.base import Context, NoCapacity, Unavailable
from gateway.providers.vast import PROVIDER, labels, offers
from gateway.providers.vast.addresses import Addresses
from gateway.providers.vast.client import Client, NotCreated
from gateway.providers.vast.environment import environment
from gateway.providers.vast.offers import Offer
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.providers.vast.pool import Round

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


class Landlord:
    """Rents at most one machine in a round, after everything else in it."""

    def __init__(self, context: Context, client: Client, addresses: Addresses) -> None:
        self._context, self._settings, self._clock = context, context.settings, context.clock
        self._client, self._addresses = client, addresses
        self._offers: tuple[int, list[Offer]] | None = None

    def rent(self, round_: Round) -> None:
        """One machine, if waiting jobs want one more and nothing speaks against it. Raises StaleLease."""
        if not self._wanted(round_):
            return
        try:
            offer, allowed = self._offer(round_), self._addresses.allowed()
        except (NoCapacity, Unavailable) as error:
            log.warning("vast.nothing_rented", code=error.code, reason=str(error))
            round_.note((error.code, str(error)))
            return
        instance = self._intend(round_, offer)
        try:
            self._client.await_create()
        except Unavailable as error:
            log.warning("vast.nothing_rented", code=error.code, reason=str(error))
            return  # the next round finds an intent that nobody sent
        self._create(round_, instance, offer, allowed)

    def offers(self, rows: instances.Instances) -> list[Offer]:
        """What would be rented now, the best first. Raises Unavailable."""
        return free(self._market(), rows, self._clock.now_ms())

    def _wanted(self, round_: Round) -> bool:
        living, now = round_.rows.living(), self._clock.now_ms()
        serving = {
            i.id
            for i in living
            if i.stage in COMING or (i.stage in USABLE and now < i.usable_until(self._settings.job_timeout_seconds))
        }
        # What is on a machine that takes nothing more ends there, or comes back and waits.
        demand = sum(
            attempt.state is State.INTENT if attempt.remote_id is None else attempt.remote_id.split(":")[0] in serving
            for attempt in round_.rows.open_attempts()
        )
        wanted = min(self._settings.vast_max_instances, math.ceil(demand / self._settings.vast_concurrency))
        # one that is being destroyed may still be paid for, and keeps its place
        return len(serving) < wanted and len(living) < self._settings.vast_max_instances

    def _offer(self, round_: Round) -> Offer:
        """The one to rent. Raises NoCapacity, or Unavailable for what is wrong with the account."""
        now = self._clock.now_ms()
        if (failed := self._failed_in_a_row(round_, now)) >= MOST_FAILURES:
            raise NoCapacity(f"the last {failed} rented machines did not come up; nothing is rented for a while")
        recent = [*round_.rows.living(), *round_.rows.ended_since(now - REFUSED_MS)]
        if any(rental.code in _CANNOT_PAY for rental in recent):
            raise Unavailable("Vast.ai says that the account cannot pay")
        if round_.rows.over_budget(self._settings.vast_daily_budget, now):
            raise NoCapacity(budget_spent(self._settings))
        if (credit := self._client.credit()) < self._settings.vast_min_credit:
            raise Unavailable(f"the Vast.ai account has {credit:.2f} dollars left")
        found = self.offers(round_.rows)
        if not found:
            raise NoCapacity("Vast.ai has no machine that fits")
        return found[0]

    def _failed_in_a_row(self, round_: Round, now: int) -> int:
        recent = [*round_.rows.living(), *round_.rows.ended_since(now - FAILURES_MS)]
        worked_at = max((rental.ready_at for rental in recent if rental.ready_at is not None), default=0)
        failed = (*instances.OVER, Stage.DESTROYING)
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

    def _intend(self, round_: Round, offer: Offer) -> Instance:
        now = self._clock.now_ms()
        instance_id = ids.new("inst", now)
        instance = Instance(
            id=instance_id,
            provider=PROVIDER,
            stage=Stage.INTENT,
            label=labels.label(self._settings.deployment or "", rental_of(instance_id), now // 1000),
            created_at=now,
            stage_at=now,
            deadline=now + self._settings.vast_max_lifetime * 1000,
            offer_id=offer.id,
            machine_id=offer.machine_id,
            gpu=offer.gpu,
            nano_per_s=offer.nano_per_s,
        )
        round_.transaction(lambda tx: instances.insert(tx, instance))
        log.info("vast.instance", instance_id=instance.id, stage="intent", gpu=offer.gpu, offer_id=offer.id)
        return instance

    def _create(self, round_: Round, instance: Instance, offer: Offer, allowed: tuple[str, ...]) -> None:
        request = self._request(instance, allowed)
        decided = self._clock.now_ms()
        instance = round_.change(instance, lambda i: move(i, Stage.CREATING, decided, sent_at=decided))
        if self._clock.now_ms() - decided > DECIDED_MS:
            return  # the next round finds out that there is no machine
        try:
            remote_id = self._client.create(offer.id, request)
        except NotCreated as error:
            log.warning("vast.create_failed", instance_id=instance.id, code=error.code, reason=str(error))
            self._not_created(round_, instance, error)
            return
        now = self._clock.now_ms()
        round_.change(instance, lambda i: move(i, Stage.BOOTING, now, remote_id=remote_id))
        round_.note(None)

    def _not_created(self, round_: Round, instance: Instance, error: NotCreated) -> None:
        now = self._clock.now_ms()
        # An id in an error may be anybody's: the machine, if there is one, is found by its label.
        needed = 1 if error.code == "no_such_ask" and error.instance_id is None else 2
        why = {"code": error.code, "reason": str(error), "missing_needed": needed}
        round_.change(instance, lambda i: move(i, Stage.AMBIGUOUS, now, **why))

    def _request(self, instance: Instance, allowed: tuple[str, ...]) -> dict[str, object]:
        return {
            "client_id": "me",
            "image": self._settings.vast_worker_image,
            "runtype": "args",  # keeps the image's own entry point
            "disk": offers.DISK_GB,
            "label": instance.label,
            "cancel_unavail": True,
            "env": environment(self._settings, self._context.signer, instance.rental, allowed),
        }


def budget_spent(settings: Settings) -> str:
    return f"the day's budget of {settings.vast_daily_budget} dollars is spent"


def free(found: list[Offer], rows: instances.Instances, now: int) -> list[Offer]:
    """Without machines that failed lately, and offers that were taken or tried."""
    avoided, recent = rows.avoided(now), [*rows.living(), *rows.ended_since(now - OFFER_AVOIDED_MS)]
    # what was never sent, or not paid for, is not the offer's fault
    blameless = {"never_sent", *_CANNOT_PAY}
    taken = {
        rental.offer_id
        for rental in recent
        if rental.stage not in instances.OVER or (rental.ready_at is None and rental.code not in blameless)
    }
    return [o for o in found if o.machine_id not in avoided and o.id not in taken]
