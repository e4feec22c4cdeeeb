"""Reconciles the records of rented machines with the cloud's listing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import structlog

from gateway.domain import ids
from gateway.domain.rentals import ORPHAN, OVER, USABLE, Rental, Stage, move
from gateway.providers.rental import labels
from gateway.providers.rental.cloud import Cloud, InconclusiveListing, Machine, Status
from gateway.providers.rental.settings import RentalSettings
from gateway.providers.rental.writer import RentalWriter

log = structlog.get_logger(__name__)

SWEEP_MS = 60_000
# Minimum time between two listings for both to count.
APART_MS = 60_000
# An unconfirmed create call may take effect this late: earlier listings prove nothing.
LATE_MS = 30_000
# Maximum number of machines without a record that one round destroys.
MAX_KILLS = 5
_PRICE_SLACK = 1.01


class Reconciliation:
    """One comparison. `foreign` are the machines with other labels that the previous one reported, updated in place."""

    def __init__(self, writer: RentalWriter, settings: RentalSettings, cloud: Cloud, foreign: set[int]) -> None:
        self._writer, self._settings, self._cloud, self._foreign = writer, settings, cloud, foreign

    def recover(self) -> None:
        """Resolve rentals that an earlier round left half done, because it was killed or lost its lease."""
        now = self._writer.now_ms()
        for rental in self._writer.rows.living():
            if rental.stage is Stage.INTENT:  # CREATING is committed before the call, so this one was never made
                self._writer.change(rental, lambda i: move(i, Stage.NO_MACHINE, now, code="never_sent"))
            elif rental.stage is Stage.CREATING:
                self._writer.change(rental, lambda i: move(i, Stage.AMBIGUOUS, now, code="no_answer", missing_needed=2))

    def match(self) -> frozenset[int]:
        """Match the listing against the records; return the ids of the machines with a label of ours.

        Skips the listing and returns nothing when no machine is recorded or wanted and the last listing is recent.
        Raises InconclusiveListing.
        """
        rows, now = self._writer.rows, self._writer.now_ms()
        looked_at = rows.fleet_state().looked_at
        recent = looked_at is not None and 0 <= now - looked_at < SWEEP_MS
        if recent and not rows.living() and not rows.open_attempts():
            return frozenset()
        machines = {machine.id: machine for machine in self._cloud.list()}
        self._writer.listed()
        deployment = self._settings.deployment
        ours = {id_: machine for id_, machine in machines.items() if labels.ours(machine.label, deployment)}
        self._report_foreign(machines.keys() - ours.keys())
        known = {rental.remote_id for rental in rows.living()}
        for rental in rows.living():
            if rental.remote_id is not None:
                machine = machines.get(rental.remote_id)
                self._absent(rental, rental.remote_id) if machine is None else self._observe(rental, machine)
            elif found := [id_ for id_, m in ours.items() if m.label == rental.label and id_ not in known]:
                known.add(min(found))
                self._adopt(rental, min(found))
            elif rental.missing_needed == 1 or not 0 <= now - (rental.sent_at or 0) < LATE_MS:
                self._missed(rental, Stage.NO_MACHINE)
        self._sweep({id_: machine for id_, machine in ours.items() if id_ not in known})
        return frozenset(ours)

    def _report_foreign(self, remote_ids: Collection[int]) -> None:
        new = sorted(set(remote_ids) - self._foreign)
        self._foreign.clear()
        self._foreign.update(remote_ids)
        if new:
            log.warning("rental.foreign_found", provider=self._cloud.name, remote_ids=new[:20], count=len(remote_ids))

    def _adopt(self, rental: Rental, remote_id: int) -> None:
        now = self._writer.now_ms()
        self._writer.change(rental, lambda i: move(i, Stage.BOOTING, now, remote_id=remote_id, code=None, reason=None))

    def _missed(self, rental: Rental, over: Stage) -> None:
        """Count a complete listing without the rental. A listing may lag, so two count only when they are far apart."""
        now = self._writer.now_ms()

        def count(i: Rental) -> Rental:
            if i.missing_at is not None and 0 <= now - i.missing_at < APART_MS:
                return i
            i = replace(i, missing_seen=i.missing_seen + 1, missing_at=now)
            return move(i, over, now) if i.missing_seen >= i.missing_needed else i

        self._writer.change(rental, count)

    def _absent(self, rental: Rental, remote_id: int) -> None:
        if rental.stage is Stage.DESTROYING:
            self._missed(rental, Stage.GONE)
            return
        if self._writer.late():
            return
        try:
            machine = self._cloud.get(remote_id)
        except InconclusiveListing as error:
            log.warning("rental.lookup_failed", provider=self._cloud.name, rental_id=rental.id, reason=str(error))
            return
        if machine is not None:
            self._observe(rental, machine)
            return
        now, reason = self._writer.now_ms(), f"{self._cloud.title} no longer has it"
        self._writer.avoid(rental, reason)
        self._writer.change(rental, lambda i: move(i, Stage.GONE, now, code="vanished", reason=reason))

    def _observe(self, rental: Rental, machine: Machine) -> None:
        """Record what the cloud reports of a machine, which may turn out not to be ours."""
        if machine.label not in {None, rental.label}:
            self._writer.disown(rental, machine)
            return
        if rental.stage is Stage.DESTROYING:
            return
        lost = machine.status is Status.LOST and rental.stage not in USABLE
        if machine.status is Status.ENDED or lost:
            self._writer.end(rental, "stopped", f"it is {machine.word}", avoid=True)
        elif machine.price is not None and machine.price > self._settings.max_price * _PRICE_SLACK:
            self._writer.end(rental, "price", f"it costs {machine.price} dollars an hour")
        elif machine.status is Status.RUNNING and machine.host is not None and machine.port is not None:
            now, host, port = self._writer.now_ms(), machine.host, machine.port

            def seen(i: Rental) -> Rental:
                i = replace(i, host=host, port=port, seen_at=now)
                return move(i, Stage.PROBING, now) if i.stage is Stage.BOOTING else i

            self._writer.change(rental, seen)

    def _sweep(self, unknown: Mapping[int, Machine]) -> None:
        """Destroy machines that have our label but no active record, at most MAX_KILLS of them."""
        if len(unknown) > MAX_KILLS:
            log.error("rental.orphans_postponed", provider=self._cloud.name, count=len(unknown), ended_now=MAX_KILLS)
        for remote_id, machine in list(unknown.items())[:MAX_KILLS]:
            if self._writer.late():
                return
            try:
                shown = self._cloud.get(remote_id)
            except InconclusiveListing as error:
                log.warning("rental.lookup_failed", provider=self._cloud.name, remote_id=remote_id, reason=str(error))
                continue
            if shown is not None and shown.label == machine.label:  # a lagging listing shows machines that are gone
                self._end_orphan(machine)

    def _end_orphan(self, machine: Machine) -> None:
        now, label = self._writer.now_ms(), machine.label or ""
        log.error(
            "rental.orphan_found", provider=self._cloud.name, remote_id=machine.id, label=label, price=machine.price
        )
        why: dict[str, Any] = {
            "code": ORPHAN,
            "reason": "it has no active record",
            "remote_id": machine.id,
        }
        ended = [i for i in self._writer.rows.labelled(label) if i.remote_id in {None, machine.id} and i.stage in OVER]
        if ended:
            self._writer.change(ended[0], lambda i: move(i, Stage.DESTROYING, now, **why))
            return
        record = Rental(
            id=ids.new("rent", now),
            provider=self._cloud.name,
            stage=Stage.DESTROYING,
            label=label,
            created_at=now,
            stage_at=now,
            deadline=now,
            sent_at=(labels.made_at(label, self._settings.deployment) or now // 1000) * 1000,
            machine_id=machine.machine_id,
            nano_per_s=round((machine.price or 0) * 1e9 / 3600),
        )
        self._writer.insert(replace(record, **why))
