"""The dependencies of the dispatcher's steps; `Look`, the context of one step; and `Verdict`, its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from common.clock import Clock
from gateway.access.quotas import Quotas
from gateway.db.store import Store
from gateway.dispatch.attempt_writer import AttemptWriter, Change, Ending
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
class Verdict:
    """The outcome of one step."""

    #: The attempt it is about; None for a job without one.
    attempt: Attempt | None
    #: What to write.
    change: Change
    #: Delay until the next step, in ms. None: the change sets it, and may end the attempt.
    next_in_ms: float | None = None
    #: Whether a worker may now be free for the job that has waited longest.
    frees_worker: bool = False
    ending: Ending = Ending()
    #: The provider's id of an attempt that it has just accepted.
    accepted_as: str | None = None


@dataclass(frozen=True)
class Look:
    """The context of one step for a job that this process has leased. Writing its verdict releases the lease."""

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

    def write(self, verdict: Verdict) -> None:
        """Write the verdict and release the lease. Raises StaleLease."""
        self.context.writer.write(
            verdict.change,
            self.job.id,
            verdict.attempt,
            lease_token=self.token,
            next_in_ms=verdict.next_in_ms,
            frees_worker=verdict.frees_worker,
            ending=verdict.ending if verdict.next_in_ms is None else None,
        )

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
