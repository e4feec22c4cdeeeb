"""Vast.ai behind the provider's protocol: attempts go to the workers on the machines that the pool rents.

The pool rents for attempts that were told NotYet. An attempt is bound to a machine in the database before its worker
hears of it: its remote id, `<our instance>:<attempt>`, is written first, so that no answer can be lost that matters.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from gateway import instances
from gateway.costs import Price
from gateway.gpus import same_gpu
from gateway.instances import COMING, USABLE, Instance, Instances, Stage, move
from gateway.jobs import Attempt, State
from gateway.providers.base import Accepted, Context, NoCapacity, NotYet, Phase, Remote, Unavailable
from gateway.providers.vast import PROVIDER
from gateway.providers.vast.client import Blind, Client
from gateway.providers.vast.pool import BLIND, Keeper, address, has
from gateway.providers.vast.rent import budget_spent
from gateway.providers.vast.workers import Workers
from gateway.store import Transaction

log = structlog.get_logger(__name__)

# How long an address is believed without asking Vast.ai again.
ADDRESS_MS = 5_000
# How long what the pool found speaks against a machine, after which it has to look anew.
TROUBLE_MS = 60_000
# How long the end of a machine is waited for; most are gone a few seconds after they are asked to.
LEAVING_MS = 30_000
CHECKED_S = 30.0
RETRY_S = 2.0
_BOOTING = frozenset({Stage.BOOTING, Stage.PROBING})


class VastProvider:
    """Machines of the account VAST_API_KEY, looked after by every gateway of this DEPLOYMENT together."""

    name = PROVIDER

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._store, self._clock, self._settings = context.store, context.clock, settings
        self._client = Client(settings.vast_api_base, settings.vast_api_key or "")
        self._workers = Workers(context.signer)
        self._keeper = Keeper(context, self._client, self._workers)
        self._rows = Instances(context.store, self.name)
        # With nobody else to ask, a job waits for a machine as long as it may wait at all.
        self._queue_limit_s = None if settings.providers == (self.name,) else settings.vast_queue_limit_s
        self._check_lock = threading.Lock()
        self._checked_at = -CHECKED_S

    def submit(self, attempt: Attempt, job_input: Mapping[str, Any]) -> Accepted | NotYet:
        timeout_s = int(job_input["delivery"]["limits"]["timeout_s"])
        closed = self._closed()
        may_wait = self._may_wait(attempt)  # before the machines are looked at: one that boots may be up by then
        with self._store.transaction() as tx:
            fresh = tx.attempt(attempt.id)
            if fresh is None or fresh.state is not State.INTENT:
                return NotYet("the attempt is in other hands", RETRY_S)
            instance = self._bound(tx, fresh, timeout_s, closed is None)
        if instance is None:
            if closed is not None:
                raise NoCapacity(closed)
            return self._in_time(may_wait, self._not_yet())
        if (found := self._found(instance)) is None:
            self._unbind(attempt)
            return self._in_time(may_wait, NotYet("the rented machine is gone", RETRY_S))
        answer = self._workers.of(found).submit(job_input)
        if isinstance(answer, NotYet):
            self._unbind(attempt)
            return self._in_time(may_wait, answer)
        return Accepted(f"{instance.id}:{attempt.id}")

    def poll(self, attempt: Attempt) -> Remote:
        if attempt.remote_id is None:
            raise NoCapacity("no machine was found for it before the gateway stopped")  # bound before it is sent
        instance = self._instance(attempt)
        return Remote(Phase.GONE) if instance is None else self._workers.of(instance).poll(_name(attempt))

    def cancel(self, attempt: Attempt) -> None:
        if (instance := self._instance(attempt)) is not None:
            self._workers.of(instance).cancel(_name(attempt))

    def reconcile(self) -> None:
        self._keeper.reconcile()

    def check(self) -> None:
        with self._check_lock:
            if time.monotonic() - self._checked_at > CHECKED_S:
                self._client.credit()
                self._checked_at = time.monotonic()

    def workers(self) -> Mapping[str, int]:
        pool = self._rows.pool()
        if pool.trouble_code == BLIND:
            raise Unavailable(pool.trouble or "")
        return Counter(str(instance.stage) for instance in self._rows.living())

    def price(self, attempt: Attempt, gpu: str | None) -> Price:
        """A job's share of the machine that has the attempt; where none is recorded, of the last one with this GPU, or
        of the last one at all, or of the highest price that we pay.
        """
        instance = self._rows.get(_instance_id(attempt))
        nano_per_s = instance.nano_per_s if instance is not None else 0
        return Price(
            (nano_per_s or self._usual(gpu)) // self._settings.vast_concurrency, self._settings.vast_idle_timeout
        )

    def _usual(self, gpu: str | None) -> int:
        """Nano-dollars a second."""
        known = self._rows.prices()
        same = [nano for name, nano in known if gpu is not None and same_gpu(name, gpu)]
        nano_per_s = (same or [nano for _, nano in known] or [0])[0]
        return nano_per_s or round(self._settings.vast_max_price * 1e9 / 3600)

    def _closed(self) -> str | None:
        """Why no machine gets another attempt, so that all of them come to rest and go."""
        if self._settings.vast_max_instances == 0:
            return "VAST_MAX_INSTANCES is 0: nothing is rented"
        spent = self._rows.over_budget(self._settings.vast_daily_budget, self._clock.now_ms())
        return budget_spent(self._settings) if spent else None

    def _bound(self, tx: Transaction, attempt: Attempt, timeout_s: int, more: bool) -> Instance | None:
        """The machine that gets the attempt, by now in the records too; None where none has room.

        Without `more` only the one that has it already: its submit may have been sent before.
        """
        now = self._clock.now_ms()
        attempts = instances.bound(tx, self.name)

        def load(instance: Instance) -> int:
            return sum(has(instance, other.remote_id) for other in attempts if other.id != attempt.id)

        fit = [
            instance
            for instance in instances.locked(tx, self.name, USABLE)
            if (more or has(instance, attempt.remote_id))
            and instance.host is not None
            and instance.silent_since is None
            and load(instance) < self._settings.vast_concurrency
            and now < instance.usable_until(timeout_s)
        ]
        if not fit:
            return None
        # the one that has it, else the busiest: the others may rest until nobody needs them
        chosen = min(fit, key=lambda i: (not has(i, attempt.remote_id), -load(i), i.id))
        if not instances.bind(tx, attempt.id, f"{chosen.id}:{attempt.id}"):
            return None
        if chosen.stage is not Stage.BUSY:
            chosen = move(chosen, Stage.BUSY, now)
            instances.save(tx, chosen)
        return chosen

    def _unbind(self, attempt: Attempt) -> None:
        with self._store.transaction() as tx:
            instances.bind(tx, attempt.id, None)

    def _found(self, instance: Instance) -> Instance | None:
        """The instance where it is now; None when it is gone. Address and port may change at any time."""
        if instance.remote_id is None or self._clock.now_ms() - (instance.seen_at or 0) < ADDRESS_MS:
            return instance
        try:
            row = self._client.show(instance.remote_id)
        except Blind as error:
            log.info("vast.not_shown", instance_id=instance.id, reason=str(error))
            return instance
        if row is None:
            return None
        host, port = address(row)
        # here ports may be missing: then the listing knows better
        return instance if host is None or port is None else replace(instance, host=host, port=port)

    def _instance(self, attempt: Attempt) -> Instance | None:
        """The usable machine that the attempt is on."""
        instance = self._rows.get(_instance_id(attempt))
        return instance if instance is not None and instance.stage in USABLE else None

    def _in_time(self, may_wait: bool, answer: NotYet) -> NotYet:
        """The answer, while the attempt may wait here. Raises NoCapacity."""
        if may_wait:
            return answer
        raise NoCapacity(f"no rented machine took the job within {self._queue_limit_s} s: {answer.reason}")

    def _may_wait(self, attempt: Attempt) -> bool:
        if self._queue_limit_s is None:
            return True
        until = attempt.created_at + self._queue_limit_s * 1000
        return self._clock.now_ms() <= until or self._boots_for(attempt, until)

    def _boots_for(self, attempt: Attempt, until: int) -> bool:
        """Whether a machine boots that has room for it. One that was rented after `until` is for others: else those
        that never come up, one after the other, would keep it here.
        """
        booting = [i for i in self._rows.living() if i.stage in _BOOTING and i.created_at <= until]
        ahead = (a for a in self._rows.open_attempts() if a.id < attempt.id)
        waiting = sum(a.state is State.INTENT and a.remote_id is None for a in ahead)
        return waiting < len(booting) * self._settings.vast_concurrency

    def _not_yet(self) -> NotYet:
        """Why no machine takes a job now. Raises NoCapacity or Unavailable where none is coming either."""
        now, living, trouble = self._clock.now_ms(), self._rows.living(), self._trouble()
        booting = [i for i in living if i.stage in _BOOTING]
        if booting:
            so_far = max(0, now - min(i.sent_at or i.created_at for i in booting)) // 1000
            return NotYet(f"a machine is booting, {so_far} s so far", RETRY_S)
        busy = any(i.stage in USABLE for i in living)
        if isinstance(trouble, Unavailable) and not busy:
            raise trouble  # whether a machine comes of a rental that is under way nobody can find out now
        if any(i.stage in COMING for i in living):
            return NotYet("a machine is being rented", RETRY_S)
        if busy:
            return NotYet("all rented machines are busy", RETRY_S)
        if trouble is not None:
            raise trouble
        if living and len(living) >= self._settings.vast_max_instances:  # what is left is on its way out
            why = "every place is held by a machine that is being destroyed"
            if now - max(i.stage_at for i in living) > LEAVING_MS:
                raise NoCapacity(f"{why}, and stays")
            return NotYet(why, RETRY_S)
        return NotYet("a machine will be rented", RETRY_S)

    def _trouble(self) -> NoCapacity | Unavailable | None:
        """Why nothing can be rented, if the pool has found out lately."""
        pool = self._rows.pool()
        if pool.trouble_at is None or not 0 <= self._clock.now_ms() - pool.trouble_at < TROUBLE_MS:
            return None
        kind = Unavailable if pool.trouble_code in {BLIND, Unavailable.code} else NoCapacity
        return kind(pool.trouble or "")


def _instance_id(attempt: Attempt) -> str:
    return (attempt.remote_id or "").partition(":")[0]


def _name(attempt: Attempt) -> str:
    """What the worker calls it."""
    return (attempt.remote_id or "").partition(":")[2] or attempt.id
