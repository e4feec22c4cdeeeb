"""Destroys machines, retrying until they are proven to be gone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import structlog

from gateway.domain.rentals import Rental, Stage, move
from gateway.providers.base import Unavailable
from gateway.providers.rental.cloud import Cloud, InconclusiveListing
from gateway.providers.rental.writer import RentalWriter

log = structlog.get_logger(__name__)

# Maximum number of calls that one pass makes.
MAX_CALLS = 5


def destroy_doomed(writer: RentalWriter, cloud: Cloud, listed: Collection[int], *, untried: bool = False) -> None:
    """Destroy the rentals in DESTROYING; with `untried`, only those whose destruction was not requested yet.

    `listed` are the ids of the machines with a label of ours in this round's listing.
    """
    doomed = [i for i in writer.rows.living() if i.stage is Stage.DESTROYING and i.remote_id is not None]
    doomed = [i for i in doomed if i.destroy_tries == 0 or not untried]
    for rental in sorted(doomed, key=lambda i: i.destroy_tries)[:MAX_CALLS]:
        assert rental.remote_id is not None
        if writer.late():
            return
        if rental.remote_id in listed or not _disowned(writer, cloud, rental, rental.remote_id):
            _destroy(writer, cloud, rental, rental.remote_id)


def _destroy(writer: RentalWriter, cloud: Cloud, rental: Rental, remote_id: int) -> None:
    try:
        gone = cloud.destroy(remote_id)
    except Unavailable as error:
        log.warning("rental.destroy_failed", provider=cloud.name, rental_id=rental.id, reason=str(error))
        gone = False
    now = writer.now_ms()

    def tried(i: Rental) -> Rental:
        i = replace(i, destroy_tries=i.destroy_tries + 1)
        return move(i, Stage.GONE, now) if gone else i

    writer.change(rental, tried)


def _disowned(writer: RentalWriter, cloud: Cloud, rental: Rental, remote_id: int) -> bool:
    """Whether the id belongs to a machine with another label; if so, forget the id."""
    try:
        machine = cloud.get(remote_id)
    except InconclusiveListing as error:
        log.warning("rental.lookup_failed", provider=cloud.name, rental_id=rental.id, reason=str(error))
        return False
    if machine is None or machine.label in {None, rental.label}:
        return False
    writer.disown(rental, machine)
    return True
