"""The dependencies of the dispatcher's steps, and `Look`, the context of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from common.clock import Clock
from gateway.access.quotas import Quotas
from gateway.db.store import Store
from gateway.dispatch.attempt_writer import AttemptWriter, Update
from gateway.dispatch.notifier import ChangeNotifier
from gateway.dispatch.poll_schedule import PollScheduler
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job
from gateway.providers.base import Provider, Unavailable
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.storage import Storage

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class DispatchContext:
    """Dependencies that all steps share."""

    store: Store
    storage: Storage
    #: By name, in the order in which they are tried.
    providers: Mapping[str, Provider]
    clock: Clock
    settings: Settings
    signer: Signer
    notifier: ChangeNotifier
    poll_scheduler: PollScheduler
    writer: AttemptWriter
    quotas: Quotas


@dataclass(frozen=True)
class Look:
    """The context of one step for a job that this process has leased. Writing its update releases the lease."""

    context: DispatchContext
    #: The job as it was when leased.
    job: Job
    #: The token of the lease.
    token: str
    #: Since when workers have been able to report events, in ms UTC.
    listening_since: int

    @property
    def now(self) -> int:
        """The current time, in ms UTC."""
        return self.context.clock.now_ms()

    @property
    def newest_attempt(self) -> Attempt | None:
        return self.context.store.attempt(self.job.attempt_id) if self.job.attempt_id else None

    def write(self, update: Update) -> None:
        """Write the update and release the lease. Raises StaleLease."""
        self.context.writer.write(self.job.id, update, lease_token=self.token)

    def provider(self, attempt: Attempt) -> Provider:
        """Return the attempt's provider. Raises Unavailable if it is no longer in PROVIDERS."""
        provider = self.context.providers.get(attempt.provider)
        if provider is None:
            raise Unavailable(f"{attempt.provider} is no longer in PROVIDERS")
        return provider

    def cancel_at_provider(self, attempt: Attempt) -> bool:
        """Cancel the attempt at its provider. Return whether that succeeded; no error may keep the job from ending."""
        try:
            self.provider(attempt).cancel(attempt)
        except Unavailable as error:
            log.warning("attempt.cancel_failed", provider=attempt.provider, reason=str(error))
        except Exception:
            log.exception("attempt.cancel_failed", provider=attempt.provider)
        else:
            return True
        return False
