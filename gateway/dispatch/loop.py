"""The dispatcher: leases due jobs, submits their attempts, follows them until they end, and sends webhooks.

It works outside transactions and writes only while its lease holds, so any number of dispatchers may run, and each
may be killed at any point. `python -m gateway.dispatch` runs one alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import structlog
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.db import clock_repair
from gateway.db.engine import brief
from gateway.db.transaction import StaleLease
from gateway.dispatch.context import DispatchContext, Look
from gateway.dispatch.step import EXPECTED, fail_if_overdue, step
from gateway.domain import ids
from gateway.domain.jobs import Job
from gateway.providers.base import Provider, Unavailable
from gateway.upkeep.janitor import Janitor
from gateway.webhooks.sender import Sender

log = structlog.get_logger(__name__)

# Number of threads. KEY_POOL of them, for the jobs of one key, are enough for POLLS_PER_S and for new jobs when a call
# takes 0.15 s; the others are left for other keys, however slow the first one's jobs are.
POOL, KEY_POOL = 32, 24
# Maximum number of these for new jobs, so that the others are still followed. Allows about as many submits as RunPod.
POOL_UNTRIED, KEY_POOL_UNTRIED = 21, 16
LEASE_MS = 60_000
IDLE_S = 1.0
# Longest pause while the database fails.
BROKEN_S = 5.0
# Minimum pause between two rounds, so that jobs gather: a round for five costs little more than a round for one.
MIN_PAUSE_S = 0.05
# Lease of a dispatcher that is running; `/ready` checks it.
HEARTBEAT_LEASE = "dispatcher"
HEARTBEAT_MS = 15_000
# Lease shared by all dispatchers; it records since when workers have been able to report.
LISTENING_LEASE = "listening"
TICK_MS = 5_000
# A provider's `reconcile`, and a step of the clean-up, must return within this time.
CHORE_MS = 60_000
CLEAN_UP_LEASE = "clean_up"


class Dispatcher:
    """`run` it on a thread of its own; `tick` is one round of the loop."""

    def __init__(self, context: DispatchContext, webhooks: Sender) -> None:
        self._context, self._webhooks = context, webhooks
        self._store, self._providers, self._clock, self._notifier = (
            context.store,
            context.providers,
            context.clock,
            context.notifier,
        )
        self._id = ids.ulid(context.clock.now_ms())
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(POOL, thread_name_prefix="dispatch")
        # Steps in progress, each with the job's key and whether it is the job's first.
        self._busy: dict[Future[None], tuple[str, bool]] = {}
        self._janitor = Janitor(context.store, context.storage, context.clock, context.settings)
        reconcile = {f"reconcile:{name}": partial(_reconcile, each) for name, each in context.providers.items()}
        self._chores: Mapping[str, Callable[[], None]] = {**reconcile, CLEAN_UP_LEASE: self._clean_up}
        self._doing: dict[str, Future[None]] = {}
        self._beat_at: int | None = None
        self._listening_since: int | None = None

    def request_stop(self) -> None:
        """Let `run` return after this round."""
        self._stopping.set()
        self._notifier.notify()

    def run(self) -> None:
        """Tick until stopped, and wait for steps in progress.

        While the database fails, the pauses grow, with one log line each.
        """
        log.info("dispatcher.started", dispatcher=self._id, providers=list(self._providers))
        failures = 0
        while not self._stopping.is_set():
            changes = self._notifier.changes
            try:
                self.tick()
                pause = self._pause_s()
                if failures:
                    log.info("dispatcher.recovered", failures=failures)
                failures = 0
            except Exception as error:
                failures += 1
                pause = min(BROKEN_S, IDLE_S * failures)
                self._failed(error, failures)
            if failures:
                self._stopping.wait(pause)
            else:
                self._stopping.wait(MIN_PAUSE_S)
                self._notifier.wait(changes, pause)
        self.close()

    def close(self) -> None:
        """Wait for steps in progress; no other can begin after this."""
        self._pool.shutdown()
        self._webhooks.stop()

    def _failed(self, error: Exception, failures: int) -> None:
        self._listening_since = self._beat_at = None  # workers could not report in this time
        if isinstance(error, SQLAlchemyError):
            reason = "the disk is read-only" if self._store.reserve.is_read_only() else brief(error)
            log.error("dispatcher.database_failed", reason=reason, failures=failures)
        else:
            log.exception("dispatcher.tick_failed", failures=failures)
        if self._store.reserve.is_low() and not self._is_doing(CLEAN_UP_LEASE):
            # The lease could not be written. Files are removed without it: several gateways may clean up at once.
            self._doing[CLEAN_UP_LEASE] = self._pool.submit(self._clean_up)

    def _is_doing(self, chore: str) -> bool:
        return chore in self._doing and not self._doing[chore].done()

    def tick(self) -> int:
        """Start due webhooks, and a step for every due job while threads are free. Return the number of steps."""
        self._busy = {future: of for future, of in self._busy.items() if not future.done()}
        self._beat()
        self._webhooks.tick()
        now = self._clock.now_ms()
        if not (due := self._due(now)):
            return 0
        token = ids.ulid(now)
        leased = self._store.together(lambda tx: tx.lease(due, token, now, now + LEASE_MS))
        for job in leased:
            future = self._pool.submit(self._step, job, token)
            future.add_done_callback(lambda _: self._notifier.notify())
            self._busy[future] = job.key_id, job.attempt_id is None
        return len(leased)

    def _due(self, now: int) -> list[str]:
        """Due jobs for which threads are free, new ones first."""
        steps, firsts = Counter[str](), Counter[str]()
        for key_id, first in self._busy.values():
            steps[key_id] += 1
            firsts[key_id] += first
        free = POOL - steps.total()
        untried = self._within(now, min(free, POOL_UNTRIED - firsts.total()), firsts, KEY_POOL_UNTRIED, untried=True)
        for key_id in untried.values():
            steps[key_id] += 1
        return [*untried, *self._within(now, POOL - steps.total(), steps, KEY_POOL, untried=False)]

    def _within(self, now: int, free: int, busy: Counter[str], share: int, *, untried: bool) -> dict[str, str]:
        """Key ids of up to `free` due jobs by job id. No key gets more than `share`, together with what is `busy`."""
        chosen: dict[str, str] = {}
        while free > len(chosen):
            full = [key_id for key_id, count in busy.items() if count >= share]
            found = self._store.due(now, free, untried=untried, not_keys=full)
            new = [(job_id, key_id) for job_id, key_id in found if job_id not in chosen]
            for job_id, key_id in new[: free - len(chosen)]:
                if busy[key_id] < share:
                    busy[key_id] += 1
                    chosen[job_id] = key_id
            if not new or len(found) < free:
                break
        return chosen

    def settle(self) -> None:
        """Wait for steps, chores and webhooks in progress."""
        for future in [*self._busy, *self._doing.values()]:
            future.result()
        self._webhooks.settle()

    def _pause_s(self) -> float:
        if len(self._busy) >= POOL:
            return IDLE_S
        next_at = self._store.next_due_at()
        return IDLE_S if next_at is None else min(IDLE_S, max(0.02, (next_at - self._clock.now_ms()) / 1000))

    def _beat(self) -> None:
        """Renew the heartbeat, reconcile the providers and clean up, every TICK_MS."""
        now = self._clock.now_ms()
        if self._beat_at is not None and 0 <= now - self._beat_at < TICK_MS:
            return
        self._beat_at = now
        with self._store.transaction() as tx:
            if clock_repair.was_set_back(tx, now):
                clock_repair.bring_back(tx, now)
                self._listening_since = None
                log.warning("clock.was_set_back")
            tx.hold(HEARTBEAT_LEASE, self._id, now, now + HEARTBEAT_MS)
            since = tx.hold_shared(LISTENING_LEASE, now, now + HEARTBEAT_MS)
            free = [name for name in self._chores if not self._is_doing(name)]
            # A chore that hangs loses its lease, so that another gateway can take over.
            held = [name for name in free if tx.hold(name, self._id, now, now + CHORE_MS)]
        if self._listening_since is None:  # a quick restart leaves no gap
            self._listening_since = since
        for name in held:
            # In the pool: a long chore must not delay jobs.
            self._doing[name] = self._pool.submit(self._chores[name])

    def _clean_up(self) -> None:
        try:
            self._janitor.step(self._stopping)
        except Exception:
            # A failed clean-up must not end the loop that serves jobs.
            log.exception("clean_up.failed")

    def _step(self, job: Job, token: str) -> None:
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt_id=job.attempt_id):
            try:
                self._look(Look(self._context, job, token, self._listening_since or self._clock.now_ms()))
            except StaleLease:
                log.info("dispatcher.lease_lost")
            except (OperationalError, PoolTimeout) as error:
                # The lease expires, and the job is looked at again.
                log.error("dispatcher.step_failed", reason=brief(error))
            except Exception:
                log.exception("dispatcher.step_failed")

    def _look(self, look: Look) -> None:
        try:
            step(look)
        except EXPECTED:
            raise
        except Exception:
            log.exception("dispatcher.step_failed")
            fail_if_overdue(look)


def _reconcile(provider: Provider) -> None:
    try:
        provider.reconcile()
    except Unavailable as error:
        log.warning("provider.reconcile_failed", provider=provider.name, reason=str(error))
    except Exception:
        # One provider's bug must not end the loop that serves them all.
        log.exception("provider.reconcile_failed", provider=provider.name)
