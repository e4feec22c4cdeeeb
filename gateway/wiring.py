"""The parts of a running gateway, made once and handed to whoever needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import current_app

from gateway.auth import Keys
from gateway.bell import Bell
from gateway.costs import Costs
from gateway.dispatcher import Dispatcher
from gateway.documents import Documents
from gateway.ends import Ends
from gateway.job_service import Jobs
from gateway.metrics import Metrics
from gateway.pace import Pace
from gateway.providers import known
from gateway.providers.base import Context, Provider
from gateway.settings import Settings, secrets_of
from gateway.shares import Shares
from gateway.signing import Signer
from gateway.step import Parts
from gateway.storage import Storage
from gateway.storage.local import LocalStorage
from gateway.store import Store, make_engine
from gateway.webhook_sender import Sender
from wire.clock import Clock, SystemClock


@dataclass(frozen=True)
class Services:
    """See the classes themselves."""

    settings: Settings
    clock: Clock
    signer: Signer
    store: Store
    storage: Storage
    providers: Mapping[str, Provider]
    keys: Keys
    jobs: Jobs
    documents: Documents
    dispatcher: Dispatcher
    metrics: Metrics
    shares: Shares

    @classmethod
    def wire(
        cls, settings: Settings, *, clock: Clock | None = None, provider: Mapping[str, Provider] | None = None
    ) -> Services:
        """All parts for `settings`; tests hand in a clock that stands still, or providers of their own."""
        clock = clock or SystemClock()
        signer, bell = Signer(secrets_of(settings)), Bell()
        store = Store(make_engine(settings.database, pool_size=settings.threads + 32))
        storage = _storage(settings, signer, clock)
        chain = provider if provider is not None else known.make(Context(settings, signer, store, clock))
        pace, metrics = Pace(), Metrics(store, chain, clock)
        ends = Ends(Costs(chain), pace, metrics)
        documents = Documents(settings, store, storage, clock)
        return cls(
            settings=settings,
            clock=clock,
            signer=signer,
            store=store,
            storage=storage,
            providers=chain,
            keys=Keys(store, clock),
            jobs=Jobs(store, storage, clock, settings, bell, ends, metrics),
            documents=documents,
            dispatcher=Dispatcher(
                Parts(store, storage, chain, clock, settings, signer, bell, pace, ends),
                Sender(settings, store, documents, signer, clock, bell, metrics),
            ),
            metrics=metrics,
            shares=Shares(settings.threads),
        )


def _storage(settings: Settings, signer: Signer, clock: Clock) -> Storage:
    if settings.storage == "local":
        return LocalStorage(settings, signer, clock)
    from gateway.storage.s3 import S3Storage  # boto3 takes time and memory that others need not pay

    return S3Storage(settings, clock)


def services() -> Services:
    """Those of the current application."""
    return cast(Services, current_app.extensions["reelay"])
