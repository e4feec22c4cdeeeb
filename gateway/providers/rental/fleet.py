"""Looks after the rented machines: one round at a time, by whoever holds the lease, from what is recorded alone.

A round looks at the records, at Vast.ai's listing and at the workers, and does what brings them together. Nothing is
kept in memory that another gateway would need. Every write checks that the lease is still held under this round's
token, so that a gateway which was stopped in the middle and wakes late writes nothing; what it may still send is a
creation whose intent is recorded, and a machine that comes of it is found by its label.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import structlog

from gateway.db import rental_store
from gateway.db.rental_store import Rentals
from gateway.db.transaction import StaleLease, Transaction
from gateway.domain import ids
from gateway.domain.rentals import ORPHAN, OVER, USABLE, FleetState, Rental, Stage, move
from gateway.providers.base import Context, Unavailable
from gateway.providers.clouds.vast import PROVIDER
from gateway.providers.clouds.vast.client import Client, InconclusiveListing, Row
from gateway.providers.rental import labels
from gateway.providers.rental.addresses import Addresses
from gateway.providers.rental.environment import PORT
from gateway.providers.rental.provisioner import Provisioner
from gateway.providers.rental.workers import Workers
from gateway.providers.worker_client import NotAllowed, Unreachable
from wire.errors import EncoderUnavailable, GatewayUnreachable, UploadFailed, WorkerDiskFull, WorkerError

log = structlog.get_logger(__name__)

LEASE = "fleet:vast"
# `trouble_code` while Vast.ai does not tell what there is.
INCONCLUSIVE = "inconclusive_listing"
LEASE_MS = 60_000
# A round begins no further call after this time, so that it ends within the minute that it has.
ROUND_S = 35.0
SWEEP_MS = 60_000
# How far apart two listings must be that both count.
APART_MS = 60_000
# How late a creation that was not confirmed may still take effect: no listing before that counts.
LATE_MS = 30_000
BOOT_MS = 600_000
# How long a machine that runs may not answer at all.
SILENCE_MS = 60_000
AVOID_MS = 3_600_000
# Ceiling on the machines without a record that one sweep ends, and on the calls to end one that a round makes.
MOST_KILLS = 5
# What all workers together have for their answers. One that needs longer counts as silent.
ASK_S = 15.0
_DEAD = frozenset({"stopped", "exited"})
_NEVER_RUNS = frozenset({"stopped", "exited", "unknown", "offline", "frozen"})
# Of jobs that fail by what a machine is. Two in a row are held against it.
_OWN_FAULTS = frozenset(
    error.code for error in (EncoderUnavailable, GatewayUnreachable, UploadFailed, WorkerDiskFull, WorkerError)
)
_PRICE_SLACK = 1.01


class FleetManager:
    """Begins rounds; see the module's docstring."""

    def __init__(self, context: Context, client: Client, workers: Workers) -> None:
        self.context, self.client, self.workers = context, client, workers
        self.addresses = Addresses(context.settings.vast_allowed_ips, context.clock)
        self.provisioner = Provisioner(context, client, self.addresses)
        self.strangers: set[int] = set()

    def reconcile(self) -> None:
        """One round, unless another gateway is in the middle of one. Raises Unavailable when Vast.ai tells nothing."""
        store, now = self.context.store, self.context.clock.now_ms()
        token = ids.ulid(now)
        with store.transaction() as tx:
            if not tx.hold(LEASE, token, now, now + LEASE_MS):
                return
        try:
            Reconciliation(self, token).run()
        except StaleLease:
            log.warning("vast.round_taken_over")
        finally:
            with store.transaction() as tx:
                rental_store.release(tx, LEASE, token)


class Reconciliation:
    """One look at everything, under the lease `token`."""

    def __init__(self, manager: FleetManager, token: str) -> None:
        context = manager.context
        self._manager, self._token = manager, token
        self._store, self._clock, self._settings = context.store, context.clock, context.settings
        self._client, self._workers = manager.client, manager.workers
        self.rows = Rentals(context.store, PROVIDER)
        self._ends_at = time.monotonic() + ROUND_S
        self._inconclusive: InconclusiveListing | None = None
        self._ours: frozenset[int] = frozenset()  # what the listing of this round tells with a label of ours

    def run(self) -> None:
        self._recover()
        told = self._listing()
        if told is not None:
            self._match(told)
        self._destroy()  # before anybody is waited for
        self._ask_workers()
        self._conclude()
        self._destroy(untried=True)
        if self._inconclusive is not None:
            self.note((INCONCLUSIVE, str(self._inconclusive)))
            raise self._inconclusive
        if not self.late():
            self._manager.provisioner.rent(self)

    # ---- for the provisioner too ----

    def late(self) -> bool:
        return time.monotonic() > self._ends_at

    def transaction(self, do: Callable[[Transaction], Any]) -> Any:
        """`do` in a transaction, while the lease is still this round's. Raises StaleLease."""
        with self._store.transaction() as tx:
            rental_store.must_hold(tx, LEASE, self._token)
            return do(tx)

    def change(self, rental: Rental, to: Callable[[Rental], Rental]) -> Rental:
        """Write what `to` makes of the record as it is now."""

        def write(tx: Transaction) -> Rental:
            fresh = rental_store.one_locked(tx, rental.id)
            changed = to(fresh)
            if changed != fresh:
                rental_store.save(tx, changed)
            return changed

        changed: Rental = self.transaction(write)
        if changed.stage is not rental.stage:
            log.info(
                "vast.rental",
                rental_id=rental.id,
                stage=str(changed.stage),
                before=str(rental.stage),
                remote_id=changed.remote_id,
                code=changed.code,
                reason=changed.reason,
            )
        return changed

    def note(self, trouble: tuple[str, str] | None) -> None:
        """Write down (code, reason) why nothing can be rented, or that nothing speaks against it."""
        code, reason = trouble or (None, None)
        at = self._clock.now_ms() if trouble else None
        self._save_fleet_state(replace(self.rows.fleet_state(), trouble_code=code, trouble=reason, trouble_at=at))

    def _looked(self) -> None:
        """A complete listing has come: Vast.ai can be reached. Other troubles stand, and grow old."""
        known = replace(self.rows.fleet_state(), looked_at=self._clock.now_ms())
        if known.trouble_code == INCONCLUSIVE:
            known = replace(known, trouble_code=None, trouble=None, trouble_at=None)
        self._save_fleet_state(known)

    def _save_fleet_state(self, pool: FleetState) -> None:
        self.transaction(lambda tx: rental_store.save_fleet_state(tx, PROVIDER, pool))

    # ---- the steps of a round ----

    def _recover(self) -> None:
        """What an earlier round left in the middle: it was killed, or stopped and fenced off."""
        now = self._clock.now_ms()
        for rental in self.rows.living():
            if rental.stage is Stage.INTENT:  # whoever sends first commits CREATING, and no longer can
                self.change(rental, lambda i: move(i, Stage.NO_INSTANCE, now, code="never_sent"))
            elif rental.stage is Stage.CREATING:
                self.change(rental, lambda i: move(i, Stage.AMBIGUOUS, now, code="no_answer", missing_needed=2))

    def _listing(self) -> Mapping[int, Row] | None:
        """All rentals of the account by id; None when nobody needs them now, or they are not told."""
        looked_at = self.rows.fleet_state().looked_at
        rested = looked_at is not None and 0 <= self._clock.now_ms() - looked_at < SWEEP_MS
        if rested and not self.rows.living() and not self.rows.open_attempts():
            return None
        try:
            told = self._client.instances()
        except InconclusiveListing as error:
            self._inconclusive = error
            return None
        self._looked()
        return {row["id"]: row for row in told}

    def _match(self, told: Mapping[int, Row]) -> None:
        ours = {remote_id: row for remote_id, row in told.items() if labels.ours(row, self._settings.deployment)}
        self._ours = frozenset(ours)
        self._report_strangers(told.keys() - ours.keys())
        known = {rental.remote_id for rental in self.rows.living()}
        for rental in self.rows.living():
            if rental.remote_id is not None:
                row = told.get(rental.remote_id)
                self._absent(rental) if row is None else self._observe(rental, row)
            elif found := [i for i, row in ours.items() if row["label"] == rental.label and i not in known]:
                known.add(min(found))
                self._adopt(rental, min(found))
            elif rental.missing_needed == 1 or not 0 <= self._clock.now_ms() - (rental.sent_at or 0) < LATE_MS:
                self._missed(rental, Stage.NO_INSTANCE)
        self._sweep({remote_id: row for remote_id, row in ours.items() if remote_id not in known})

    def _report_strangers(self, remote_ids: Collection[int]) -> None:
        new = sorted(set(remote_ids) - self._manager.strangers)
        self._manager.strangers = set(remote_ids)
        if new:
            log.warning("vast.other_instances", remote_ids=new[:20], count=len(remote_ids))

    def _adopt(self, rental: Rental, remote_id: int) -> None:
        now = self._clock.now_ms()
        self.change(rental, lambda i: move(i, Stage.BOOTING, now, remote_id=remote_id, code=None, reason=None))

    def _missed(self, rental: Rental, over: Stage) -> None:
        """A complete listing lacks it. Two count only when they are far apart: a listing may lag."""
        now = self._clock.now_ms()

        def count(i: Rental) -> Rental:
            if i.missing_at is not None and 0 <= now - i.missing_at < APART_MS:
                return i
            i = replace(i, missing_seen=i.missing_seen + 1, missing_at=now)
            return move(i, over, now) if i.missing_seen >= i.missing_needed else i

        self.change(rental, count)

    def _absent(self, rental: Rental) -> None:
        if rental.stage is Stage.DESTROYING:
            self._missed(rental, Stage.GONE)
            return
        assert rental.remote_id is not None
        if self.late():
            return
        try:
            row = self._client.show(rental.remote_id)
        except InconclusiveListing as error:
            log.warning("vast.not_shown", rental_id=rental.id, reason=str(error))
            return
        if row is not None:
            self._observe(rental, row)
            return
        now = self._clock.now_ms()
        self._avoid(rental, "it was taken away")
        self.change(rental, lambda i: move(i, Stage.GONE, now, code="vanished", reason="Vast.ai took it away"))

    def _observe(self, rental: Rental, row: Row) -> None:
        """What Vast.ai tells of a machine of ours, or of somebody else's whose id we took for ours."""
        if row.get("label") not in {None, rental.label}:
            self._forget(rental, row)
            return
        if rental.stage is Stage.DESTROYING:
            return
        now, status, price = self._clock.now_ms(), row.get("actual_status"), row.get("dph_total")
        dead = _DEAD if rental.stage in USABLE else _NEVER_RUNS
        if status in dead:
            self.end(rental, "stopped", f"it is {status}", avoid=True)
            return
        if isinstance(price, int | float) and price > self._settings.vast_max_price * _PRICE_SLACK:
            self.end(rental, "price", f"it costs {price} dollars an hour")
            return
        host, port = address(row)
        if status != "running" or host is None or port is None:
            return

        def seen(i: Rental) -> Rental:
            i = replace(i, host=host, port=port, seen_at=now)
            return move(i, Stage.PROBING, now) if i.stage is Stage.BOOTING else i

        self.change(rental, seen)

    def _forget(self, rental: Rental, row: Row) -> None:
        """Its id is that of a machine with another label, which is never touched."""
        now, stage = self._clock.now_ms(), Stage.AMBIGUOUS if rental.stage is Stage.BOOTING else Stage.GONE
        log.error("vast.not_ours", rental_id=rental.id, remote_id=row["id"], label=row.get("label"))
        why = {"remote_id": None, "code": "not_ours", "reason": "its id is that of a machine with another label"}
        self.change(rental, lambda i: move(i, stage, now, **why) if i.stage is rental.stage else i)

    def _sweep(self, unknown: Mapping[int, Row]) -> None:
        """Machines with our label and without a living record: ended, at most so many at a time."""
        if len(unknown) > MOST_KILLS:
            log.error("vast.many_orphans", count=len(unknown), ended_now=MOST_KILLS)
        for remote_id, row in list(unknown.items())[:MOST_KILLS]:
            if self.late():
                return
            try:
                shown = self._client.show(remote_id)
            except InconclusiveListing as error:
                log.warning("vast.not_shown", remote_id=remote_id, reason=str(error))
                continue
            if shown is not None and shown.get("label") == row["label"]:  # a listing that lags shows what is gone
                self._orphan(remote_id, row)

    def _orphan(self, remote_id: int, row: Row) -> None:
        now, label = self._clock.now_ms(), str(row["label"])
        price, machine_id = row.get("dph_total"), row.get("machine_id")
        log.error("vast.orphan_found", remote_id=remote_id, label=label, price=price)
        ended = [i for i in self.rows.labelled(label) if i.remote_id in {None, remote_id} and i.stage in OVER]
        why: dict[str, Any] = {"code": ORPHAN, "reason": "it was found without a living record", "remote_id": remote_id}
        if ended:
            self.change(ended[0], lambda i: move(i, Stage.DESTROYING, now, **why))
            return
        record = Rental(
            id=ids.new("rent", now),
            provider=PROVIDER,
            stage=Stage.DESTROYING,
            label=label,
            created_at=now,
            stage_at=now,
            deadline=now,
            sent_at=(labels.made_at(row, self._settings.deployment) or now // 1000) * 1000,
            machine_id=machine_id if isinstance(machine_id, int) else None,
            nano_per_s=round(price * 1e9 / 3600) if isinstance(price, int | float) and math.isfinite(price) else 0,
        )
        self.transaction(lambda tx: rental_store.insert(tx, replace(record, **why)))

    def _ask_workers(self) -> None:
        """Every worker is asked how it is: that keeps it alive, too."""
        asked = [i for i in self.rows.living() if i.stage in {Stage.PROBING, *USABLE} and i.host is not None]
        if not asked:
            return
        threads = ThreadPoolExecutor(len(asked), thread_name_prefix="vast")
        answers = [threads.submit(self._how_is, rental) for rental in asked]
        wait(answers, ASK_S)
        threads.shutdown(wait=False)
        for rental, answer in zip(asked, answers, strict=True):
            error = answer.result() if answer.done() else Unreachable(TimeoutError())
            if isinstance(error, NotAllowed):
                self._not_let_in(rental, error)
            else:
                self._answered(rental, error)

    def _how_is(self, rental: Rental) -> Unavailable | None:
        """None when its worker answers well."""
        try:
            self._manager.addresses.seen(self._workers.of(rental).health().peer)
        except Unavailable as error:
            return error
        return None

    def _not_let_in(self, rental: Rental, error: NotAllowed) -> None:
        """Nor will it ever: whom it lets in was said when it was rented. What it works on may still come to its end."""
        log.error("vast.worker_does_not_let_us_in", rental_id=rental.id, peer=error.peer)
        self._manager.addresses.seen(error.peer)
        self.end(rental, "not_let_in", str(error), unless_used=True)

    def _answered(self, rental: Rental, error: Unavailable | None) -> None:
        now, silent = self._clock.now_ms(), isinstance(error, Unreachable) and error.silent
        if error is not None:
            log.info("vast.worker_does_not_answer", rental_id=rental.id, reason=str(error))
        # While we see nothing at all it may be our own network. Before its worker is up, a refusal is a sign of life.
        excused = self._inconclusive is not None or (rental.stage is Stage.PROBING and not silent)

        def note(i: Rental) -> Rental:
            if error is not None:
                return replace(i, silent_since=None if excused else i.silent_since or now)
            i = replace(i, heard_at=now, silent_since=None)
            return move(i, Stage.READY, now, ready_at=now) if i.stage is Stage.PROBING else i

        if self.change(rental, note).stage is Stage.READY:
            self.transaction(lambda tx: tx.wake_oldest_waiting(now))

    def _conclude(self) -> None:
        now = self._clock.now_ms()
        spent = self.rows.over_budget(self._settings.vast_daily_budget, now)
        living = self.rows.living()
        since = min((i.created_at for i in living), default=now)
        outcomes = self.rows.outcomes(since) if living else {}
        for i in living:
            silent_ms = now - i.silent_since if i.silent_since is not None and self._inconclusive is None else 0
            if i.stage not in {Stage.BOOTING, Stage.PROBING, *USABLE}:
                continue
            if now >= i.deadline:
                self.end(i, "lifetime", "it has reached its greatest age")
            elif i.stage not in USABLE and now - (i.sent_at or i.created_at) >= BOOT_MS:
                self.end(i, "boot_failed", f"it was not up after {BOOT_MS // 60_000} minutes", avoid=True)
            elif silent_ms >= SILENCE_MS:
                code = "worker_lost" if i.stage in USABLE else "black_hole"
                self.end(i, code, f"nobody answers there for {silent_ms // 1000} s", avoid=True)
            elif (fault := _own_fault(outcomes.get(i.id, []))) is not None:
                self.end(i, fault, "jobs fail there by its own fault", avoid=True)
            elif i.stage in USABLE:
                self._rest(i, now, spent)

    def _rest(self, rental: Rental, now: int, spent: bool) -> None:
        """Without a job it is idle, and idle for long enough it goes."""
        if rental.stage is not Stage.IDLE:

            def idle(tx: Transaction) -> None:
                fresh = rental_store.one_locked(tx, rental.id)
                if not _has_job(tx, fresh) and fresh.stage in {Stage.READY, Stage.BUSY}:
                    rental_store.save(tx, move(fresh, Stage.IDLE, now))

            self.transaction(idle)
        elif now - rental.stage_at >= self._settings.vast_idle_timeout * 1000:
            self.end(rental, "idle", "nobody needs it", unless_used=True)
        elif spent:
            self.end(rental, "budget", "the day's budget is spent", unless_used=True)
        elif now >= rental.usable_until(self._settings.job_timeout_seconds):
            self.end(rental, "lifetime", "it is too old to begin a job", unless_used=True)

    def end(self, rental: Rental, code: str, reason: str, *, avoid: bool = False, unless_used: bool = False) -> None:
        """Commit that it is to be destroyed; `unless_used`: not if it has got a job in the meantime."""
        now = self._clock.now_ms()

        def write(tx: Transaction) -> None:
            fresh = rental_store.one_locked(tx, rental.id)
            if fresh.stage is Stage.DESTROYING or fresh.stage in OVER or (unless_used and _has_job(tx, fresh)):
                return
            rental_store.save(tx, move(fresh, Stage.DESTROYING, now, code=code, reason=reason))
            log.info("vast.rental", rental_id=fresh.id, stage="destroying", code=code, reason=reason)

        if avoid:
            self._avoid(rental, reason)
        self.transaction(write)

    def _avoid(self, rental: Rental, reason: str) -> None:
        machine_id, until = rental.machine_id, self._clock.now_ms() + AVOID_MS
        if machine_id is not None:
            self.transaction(lambda tx: rental_store.avoid(tx, PROVIDER, machine_id, until, reason))

    def _destroy(self, *, untried: bool = False) -> None:
        """Ask for the end of what is to be destroyed, again and again until there is proof. A 200 is none."""
        doomed = [i for i in self.rows.living() if i.stage is Stage.DESTROYING and i.remote_id is not None]
        doomed = [i for i in doomed if i.destroy_tries == 0 or not untried]
        for rental in sorted(doomed, key=lambda i: i.destroy_tries)[:MOST_KILLS]:
            if self.late():
                return
            assert rental.remote_id is not None
            if rental.remote_id not in self._ours and self._is_anothers(rental, rental.remote_id):
                continue
            try:
                gone = self._client.destroy(rental.remote_id)
            except Unavailable as error:
                log.warning("vast.destroy_failed", rental_id=rental.id, reason=str(error))
                gone = False
            now = self._clock.now_ms()

            def tried(i: Rental, gone: bool = gone, now: int = now) -> Rental:
                i = replace(i, destroy_tries=i.destroy_tries + 1)
                return move(i, Stage.GONE, now) if gone else i

            self.change(rental, tried)

    def _is_anothers(self, rental: Rental, remote_id: int) -> bool:
        """Whether it is certain that the id is somebody else's: then it is forgotten."""
        try:
            row = self._client.show(remote_id)
        except InconclusiveListing as error:
            log.warning("vast.not_shown", rental_id=rental.id, reason=str(error))
            return False
        if row is None or row.get("label") in {None, rental.label}:
            return False
        self._forget(rental, row)
        return True


def address(row: Row) -> tuple[str | None, int | None]:
    """Where the worker's port can be reached from outside, as far as it is told."""
    host = str(row.get("public_ipaddr") or "").strip()
    ports = row.get("ports")
    mapped = ports.get(f"{PORT}/tcp") if isinstance(ports, Mapping) else None
    for entry in mapped if isinstance(mapped, list) else ():
        if not isinstance(entry, Mapping) or str(entry.get("HostIp")) == "::":
            continue
        port = str(entry.get("HostPort") or "")
        if port.isdecimal() and 0 < int(port) < 65536 and host:
            return host, int(port)
    return host or None, None


def _own_fault(codes: Sequence[str | None]) -> str | None:
    """The code for which a machine with these outcomes, newest first, is not kept: one missing encoder is enough."""
    if EncoderUnavailable.code in codes:
        return EncoderUnavailable.code
    last = codes[:2]
    return last[0] if len(last) == 2 and all(code in _OWN_FAULTS for code in last) else None


def _has_job(tx: Transaction, rental: Rental) -> bool:
    return any(has(rental, attempt.remote_id) for attempt in rental_store.bound(tx, PROVIDER))


def has(rental: Rental, remote_id: str | None) -> bool:
    """Whether an attempt with this remote id is at the rental."""
    return remote_id is not None and remote_id.partition(":")[0] == rental.id
