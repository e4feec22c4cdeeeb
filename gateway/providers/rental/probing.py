"""Calls the health check of every worker, which also serves as the heartbeat of its machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import structlog

from gateway.domain.rentals import USABLE, Rental, Stage, move
from gateway.providers.base import Unavailable
from gateway.providers.rental.addresses import Addresses
from gateway.providers.rental.workers import Workers
from gateway.providers.rental.writer import RentalWriter
from gateway.providers.worker_client import NotAllowed, Unreachable

log = structlog.get_logger(__name__)

# Time limit for all health checks together. A worker that has not responded by then counts as silent.
ASK_S = 15.0


def probe(writer: RentalWriter, workers: Workers, addresses: Addresses, *, blind: bool) -> None:
    """Check all workers concurrently and record the outcomes.

    `blind` means that the cloud cannot be reached either, so our own network may be the reason for a silence.
    """
    asked = [i for i in writer.rows.living() if i.stage in {Stage.PROBING, *USABLE} and i.host is not None]
    if not asked:
        return
    threads = ThreadPoolExecutor(len(asked), thread_name_prefix="probe")
    answers = [threads.submit(_ask, rental, workers, addresses) for rental in asked]
    wait(answers, ASK_S)
    threads.shutdown(wait=False)
    for rental, answer in zip(asked, answers, strict=True):
        error = answer.result() if answer.done() else Unreachable(TimeoutError())
        if isinstance(error, NotAllowed):
            _end_not_let_in(writer, addresses, rental, error)
        else:
            _record(writer, rental, error, blind=blind)


def _ask(rental: Rental, workers: Workers, addresses: Addresses) -> Unavailable | None:
    """Return None when the worker is healthy, else the error."""
    try:
        addresses.seen(workers.of(rental).health().peer)
    except Unavailable as error:
        return error
    return None


def _end_not_let_in(writer: RentalWriter, addresses: Addresses, rental: Rental, error: NotAllowed) -> None:
    """End a machine that refuses this gateway, once its job has ended: its allow-list cannot be changed."""
    log.error("rental.gateway_refused", provider=rental.provider, rental_id=rental.id, peer=error.peer)
    addresses.seen(error.peer)
    writer.end(rental, "not_let_in", str(error), unless_used=True)


def _record(writer: RentalWriter, rental: Rental, error: Unavailable | None, *, blind: bool) -> None:
    now, silent = writer.now_ms(), isinstance(error, Unreachable) and error.silent
    if error is not None:
        log.info("rental.probe_failed", provider=rental.provider, rental_id=rental.id, reason=str(error))
    # while the worker is starting, a refused connection shows that the machine is up
    excused = blind or (rental.stage is Stage.PROBING and not silent)

    def note(i: Rental) -> Rental:
        if error is not None:
            return replace(i, silent_since=None if excused else i.silent_since or now)
        i = replace(i, heard_at=now, silent_since=None)
        return move(i, Stage.READY, now, ready_at=now) if i.stage is Stage.PROBING else i

    if writer.change(rental, note).stage is Stage.READY:
        writer.transaction(lambda tx: tx.wake_next_waiting(now))
