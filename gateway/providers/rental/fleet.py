"""Manages the rented machines of one cloud in rounds, each run by the gateway that holds the lease.

A round reconciles the records, the cloud's listing and the health of the workers. No state that another gateway would
need is kept in memory. Every write checks the lease, so a gateway that was suspended in the middle of a round writes
nothing when it resumes. It may still send a create call, but the intent is recorded, and the machine is found by its
label.
"""

from __future__ import annotations

import structlog

from gateway.db import rental_store
from gateway.db.transaction import StaleLease
from gateway.domain import ids
from gateway.providers.base import Context
from gateway.providers.rental.addresses import Addresses
from gateway.providers.rental.cloud import Cloud, InconclusiveListing
from gateway.providers.rental.destroyer import destroy_doomed
from gateway.providers.rental.probing import probe
from gateway.providers.rental.provisioner import Provisioner
from gateway.providers.rental.reconciliation import Reconciliation
from gateway.providers.rental.retirement import retire
from gateway.providers.rental.settings import RentalSettings
from gateway.providers.rental.workers import Workers
from gateway.providers.rental.writer import INCONCLUSIVE, RentalWriter

log = structlog.get_logger(__name__)

LEASE_MS = 60_000


class FleetManager:
    """Runs the rounds; see the module's docstring."""

    def __init__(self, context: Context, settings: RentalSettings, cloud: Cloud, workers: Workers) -> None:
        self._context, self._settings, self._cloud, self._workers = context, settings, cloud, workers
        self.addresses = Addresses(settings, context.clock)
        self._provisioner = Provisioner(context, settings, cloud, self.addresses)
        self._foreign: set[int] = set()
        self.lease = f"fleet:{cloud.name}"

    def reconcile(self) -> None:
        """Run one round unless another gateway is running one. Raises Unavailable without a conclusive listing."""
        store, now = self._context.store, self._context.clock.now_ms()
        token = ids.ulid(now)
        with store.transaction() as tx:
            if not tx.hold(self.lease, token, now, now + LEASE_MS):
                return
        try:
            self._round(RentalWriter(store, self._cloud.name, self._context.clock, self.lease, token))
        except StaleLease:
            log.warning("round.overtaken", provider=self._cloud.name)
        finally:
            with store.transaction() as tx:
                rental_store.release(tx, self.lease, token)

    def _round(self, writer: RentalWriter) -> None:
        reconciliation = Reconciliation(writer, self._settings, self._cloud, self._foreign)
        reconciliation.recover()
        trouble: InconclusiveListing | None = None
        try:
            listed = reconciliation.match()
        except InconclusiveListing as error:
            listed, trouble = frozenset(), error
        destroy_doomed(writer, self._cloud, listed)  # before the wait for the workers
        probe(writer, self._workers, self.addresses, blind=trouble is not None)
        retire(writer, self._settings, self._context.settings.job_timeout_seconds, blind=trouble is not None)
        destroy_doomed(writer, self._cloud, listed, untried=True)
        if trouble is not None:
            writer.note(INCONCLUSIVE, str(trouble))
            raise trouble
        if not writer.late():
            self._provisioner.rent(writer)
