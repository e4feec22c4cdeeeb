"""What the dispatcher's steps work with, and one look at one leased job."""

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
    """The parts that all steps share."""

    store: Store
    storage: Storage
    #: By name, in the order of trial.
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
    """What a look came to."""

    #: The attempt it is about; None for a job without one.
    attempt: Attempt | None
    change: Change
    #: When to look again. None: the change says so, and may end the attempt.
    next_in_ms: float | None = None
    #: Whether the job that has waited longest may find a worker now.
    frees_worker: bool = False
    ending: Ending = Ending()
    #: The provider's id of an attempt that it has just accepted.
    accepted_as: str | None = None


@dataclass(frozen=True)
class Look:
    """One look at a job that this process has leased. It ends with one verdict, whose write gives the lease back."""

    context: DispatchContext
    #: As it was when it was leased.
    job: Job
    #: The lease.
    token: str
    #: Since when workers could report events, in ms UTC.
    listening_since: int

    @property
    def now(self) -> int:
        """Ms UTC."""
        return self.context.clock.now_ms()

    @property
    def newest_attempt(self) -> Attempt | None:
        return self.context.store.attempt(self.job.attempt_id) if self.job.attempt_id else None

    def write(self, verdict: Verdict) -> None:
        """Write what the look came to, and give the lease back. Raises StaleLease."""
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
        """Raises Unavailable for a provider that has been taken out of PROVIDERS since."""
        provider = self.context.providers.get(attempt.provider)
        if provider is None:
            raise Unavailable(f"{attempt.provider} is no longer among PROVIDERS")
        return provider

    def cancel_at_provider(self, attempt: Attempt) -> bool:
        """Take the attempt back. Return whether the provider was told; a bug in it must not keep a job from its end."""
        try:
            self.provider(attempt).cancel(attempt)
        except Unavailable as error:
            log.warning("attempt.cancel_failed", provider=attempt.provider, reason=str(error))
        except Exception:
            log.exception("attempt.cancel_failed", provider=attempt.provider)
        else:
            return True
        return False
