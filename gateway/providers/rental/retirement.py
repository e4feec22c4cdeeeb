"""Decides which machines are destroyed, and why."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.db import rental_store
from gateway.db.transaction import Transaction
from gateway.domain.rentals import USABLE, Rental, Stage, move
from gateway.providers.rental.settings import RentalSettings
from gateway.providers.rental.writer import RentalWriter
from wire.errors import EncoderUnavailable, GatewayUnreachable, UploadFailed, WorkerDiskFull, WorkerError

BOOT_MS = 600_000
# How long a running machine may be silent.
SILENCE_MS = 60_000
# Errors of jobs that are the machine's fault. Two in a row retire it.
_OWN_FAULTS = frozenset(
    error.code for error in (EncoderUnavailable, GatewayUnreachable, UploadFailed, WorkerDiskFull, WorkerError)
)


def retire(writer: RentalWriter, settings: RentalSettings, timeout_s: int, *, blind: bool) -> None:
    """End the machines that are too old, broken or not needed.

    `timeout_s` is the maximum duration of a job. `blind` means that the cloud cannot be reached either, so a silent
    worker may be healthy.
    """
    now, living = writer.now_ms(), writer.rows.living()
    spent = writer.rows.over_budget(settings.daily_budget, now)
    outcomes = writer.rows.outcomes(min(i.created_at for i in living)) if living else {}
    for rental in living:
        if rental.stage not in {Stage.BOOTING, Stage.PROBING, *USABLE}:
            continue
        fault = _own_fault(outcomes.get(rental.id, []))
        silent_ms = now - rental.silent_since if rental.silent_since is not None and not blind else 0
        if now >= rental.deadline:
            writer.end(rental, "lifetime", "it has reached its maximum age")
        elif rental.stage not in USABLE and now - (rental.sent_at or rental.created_at) >= BOOT_MS:
            writer.end(rental, "boot_failed", f"it was not up after {BOOT_MS // 60_000} minutes", avoid=True)
        elif silent_ms >= SILENCE_MS:
            code = "worker_lost" if rental.stage in USABLE else "black_hole"
            writer.end(rental, code, f"its worker has not answered for {silent_ms // 1000} s", avoid=True)
        elif fault == EncoderUnavailable.code:
            writer.drain(rental, fault, "its GPU does not encode")
        elif fault is not None:
            writer.end(rental, fault, "jobs fail there because of the machine", avoid=True)
        elif rental.stage is Stage.IDLE:
            _retire_idle(writer, settings, timeout_s, rental, spent=spent)
        elif rental.stage in USABLE:
            _mark_idle(writer, rental, now)


def _mark_idle(writer: RentalWriter, rental: Rental, now: int) -> None:
    def idle(tx: Transaction) -> None:
        fresh = rental_store.one_locked(tx, rental.id)
        if fresh.stage in {Stage.READY, Stage.BUSY} and not writer.has_job(tx, fresh):
            rental_store.save(tx, move(fresh, Stage.IDLE, now))

    writer.transaction(idle)


def _retire_idle(
    writer: RentalWriter, settings: RentalSettings, timeout_s: int, rental: Rental, *, spent: bool
) -> None:
    now = writer.now_ms()
    if now - rental.stage_at >= settings.idle_timeout * 1000:
        writer.end(rental, "idle", "no job needs it", unless_used=True)
    elif spent:
        writer.end(rental, "budget", "the day's budget is spent", unless_used=True)
    elif now >= rental.usable_until(timeout_s):
        writer.end(rental, "lifetime", "it is too old to start a job", unless_used=True)


def _own_fault(codes: Sequence[str | None]) -> str | None:
    """Return the error for which a machine with these outcomes, newest first, is retired, if any.

    One missing encoder is enough.
    """
    if EncoderUnavailable.code in codes:
        return EncoderUnavailable.code
    last = codes[:2]
    return last[0] if len(last) == 2 and all(code in _OWN_FAULTS for code in last) else None
