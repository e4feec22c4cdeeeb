"""The objects of a running gateway, created once and passed to those that depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import current_app

from common.clock import Clock, SystemClock
from gateway.access.keys import Keys
from gateway.access.quotas import Quotas
from gateway.access.rate_limits import RateLimits
from gateway.access.thread_limits import ThreadLimits
from gateway.access.upload_quota import UploadQuota
from gateway.api.body_process import BodyProcess
from gateway.api.job_document import JobDocuments
from gateway.api.job_service import Jobs
from gateway.api.waiting_room import WaitingRoom
from gateway.db.engine import make_engine
from gateway.db.store import Store
from gateway.dispatch.attempt_writer import AttemptWriter
from gateway.dispatch.context import DispatchContext
from gateway.dispatch.loop import Dispatcher
from gateway.dispatch.notifier import ChangeNotifier
from gateway.dispatch.poll_schedule import PollScheduler
from gateway.dispatch.reports import WorkerReports
from gateway.providers import registry
from gateway.providers.base import Context, Provider
from gateway.settings import Settings, secrets_of
from gateway.signing import Signer
from gateway.storage import Storage
from gateway.storage.local import LocalStorage
from gateway.upkeep.metrics import Metrics
from gateway.webhooks.sender import Sender


@dataclass(frozen=True)
class Services:
    """The objects that views and commands use; see their classes."""

    settings: Settings
    clock: Clock
    signer: Signer
    store: Store
    storage: Storage
    providers: Mapping[str, Provider]
    keys: Keys
    jobs: Jobs
    waiting_room: WaitingRoom
    reports: WorkerReports
    documents: JobDocuments
    dispatcher: Dispatcher
    notifier: ChangeNotifier
    metrics: Metrics
    thread_limits: ThreadLimits
    rate_limits: RateLimits
    body_process: BodyProcess
    upload_quota: UploadQuota

    @classmethod
    def wire(
        cls, settings: Settings, *, clock: Clock | None = None, provider: Mapping[str, Provider] | None = None
    ) -> Services:
        """Create everything for `settings`; tests pass a clock or providers of their own."""
        clock = clock or SystemClock()
        signer, notifier = Signer(secrets_of(settings)), ChangeNotifier()
        store = Store(make_engine(settings.database, pool_size=settings.threads + 8))
        storage = _storage(settings, signer, clock)
        chain = provider if provider is not None else registry.make(Context(settings, signer, store, clock))
        poll_scheduler, metrics = PollScheduler(), Metrics(store, chain, clock)
        writer = AttemptWriter(store, chain, clock, poll_scheduler, metrics, notifier)
        quotas = Quotas(settings, store)
        documents, waiting_room = JobDocuments(settings, store, storage, clock), WaitingRoom(store)
        notifier.on_end = waiting_room.ended
        return cls(
            settings=settings,
            clock=clock,
            signer=signer,
            store=store,
            storage=storage,
            providers=chain,
            keys=Keys(store, clock),
            jobs=Jobs(store, storage, clock, settings, notifier, writer, quotas),
            waiting_room=waiting_room,
            reports=WorkerReports(settings, store, storage, clock, writer, metrics),
            documents=documents,
            dispatcher=Dispatcher(
                DispatchContext(
                    store, storage, chain, clock, settings, signer, notifier, poll_scheduler, writer, quotas
                ),
                Sender(settings, store, documents.of, signer, clock, notifier, metrics),
            ),
            notifier=notifier,
            metrics=metrics,
            thread_limits=ThreadLimits(settings.threads, settings.max_waiting_per_key),
            rate_limits=RateLimits(settings, clock),
            body_process=BodyProcess(),
            upload_quota=UploadQuota(settings, store, storage, clock),
        )


def _storage(settings: Settings, signer: Signer, clock: Clock) -> Storage:
    if settings.storage == "local":
        return LocalStorage(settings, signer, clock)
    from gateway.storage.s3 import S3Storage  # boto3 needs time and memory that other installations save

    return S3Storage(settings, clock)


def services() -> Services:
    """The services of the current application."""
    return cast(Services, current_app.extensions["reelay"])
