"""The contract of a provider, and what its package declares about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from common.clock import Clock
from gateway.db.store import Store
from gateway.domain.attempts import Attempt
from gateway.domain.prices import Price
from gateway.settings import Settings
from gateway.signing import Signer
from wire.errors import JobError, JobFault, storable

S = TypeVar("S")


@dataclass(frozen=True)
class Context:
    """What a provider may work with."""

    #: The gateway's, which hold the provider's own too.
    settings: Settings
    #: Derives secrets of workers from SECRET_KEY.
    signer: Signer
    store: Store
    clock: Clock


@dataclass(frozen=True)
class Accepted:
    """The provider has the attempt."""

    #: The provider's own id of the attempt.
    remote_id: str


@dataclass(frozen=True)
class NotYet:
    """The provider has not taken the attempt and may take it later."""

    #: Why, for the log and for `waiting_for` of the job.
    reason: str
    #: Seconds after which asking again makes sense.
    retry_in_s: float
    #: Whether a machine is on its way for this attempt, so that it may wait beyond the provider's queue limit.
    coming: bool = False


class Phase(StrEnum):
    """Where an attempt is, as its provider reports."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True)
class Remote:
    """What a provider reports of an attempt.

    COMPLETED without a result, or FAILED without an error, as when a provider has lost the worker's answer, is a failed
    attempt, and the job is tried again.
    """

    phase: Phase
    #: Share of the work that is done, from 0 to 1, while it is RUNNING.
    progress: float | None = None
    #: The worker's result, with COMPLETED.
    result: Mapping[str, Any] | None = None
    #: The worker's error, with FAILED.
    error: JobError | None = None
    #: Why it is WAITING.
    reason: str | None = None
    #: Milliseconds that the machine was busy with it, where the provider bills these.
    execution_ms: int | None = None
    #: Milliseconds from the submit to the end.
    took_ms: int | None = None


class ProviderError(Exception):
    """A provider did not do what it was asked; the text is for the log and for `waiting_for`."""

    code = "provider_error"

    def __init__(self, reason: str) -> None:
        super().__init__(storable(reason))


class Refused(ProviderError):
    """The provider, or the worker there, says that the job itself is at fault."""

    code = "refused"

    def __init__(self, fault: JobFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class NoCapacity(ProviderError):
    """The provider works but has no machine for us."""

    code = "no_capacity"


class Unavailable(ProviderError):
    """The provider cannot be reached or cannot run our jobs. `retry_in_s`: when it can be asked again, if known."""

    code = "provider_unavailable"

    def __init__(self, reason: str, retry_in_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_in_s = retry_in_s


class Ambiguous(ProviderError):
    """The attempt may or may not have been taken."""

    code = "ambiguous"


class Provider(Protocol):
    """Runs attempts on workers of one kind.

    Every method may raise `Unavailable` (ask again later); beyond that each raises what it says and nothing else: no
    exception of an HTTP library gets out. No call takes longer than its own time-out.
    """

    #: Its name in PROVIDERS.
    name: str
    #: Longest time an attempt waits there before the next provider is asked, in seconds; None for no limit.
    queue_limit_s: int | None

    def submit(self, attempt: Attempt, job_input: Mapping[str, Any]) -> Accepted | NotYet:
        """Hand the attempt over with the worker's input. It is recorded and not yet with any provider.

        Returns Accepted when the provider has it, NotYet when it certainly has not and asking later may help (a machine
        boots, a worker is busy). Raises Refused for the job's own fault; NoCapacity or Unavailable when nothing runs
        there and another provider should be asked; Ambiguous when it may run, because the answer was lost. An attempt
        that is submitted twice must not run twice where the provider can tell.
        """

    def poll(self, attempt: Attempt) -> Remote:
        """Return where the attempt is.

        One without a remote id, whose submit was ambiguous, is looked for by our own id where the provider allows that;
        otherwise it is WAITING, and the dispatcher limits for how long. Raises NoCapacity when it has not begun there
        and never will: it then costs the job no try, and another provider is asked.
        """

    def cancel(self, attempt: Attempt) -> None:
        """Take the attempt back. One that the provider does not know is no error."""

    def reconcile(self) -> None:
        """Look after machines. Called every few seconds, by one thread of a process; returns within a minute."""

    def check(self) -> None:
        """Return when the provider can be reached with our settings. Raises Unavailable with the reason."""

    def workers(self) -> Mapping[str, int]:
        """Count the workers or machines by the provider's own words for their states; empty where it does not know."""

    def price(self, attempt: Attempt, gpu: str | None) -> Price | None:
        """Return what the machine that has or had the attempt costs; called outside transactions.

        Where that machine is not known, the price is that of one with `gpu`, the worker's own name of its GPU. None
        where nothing is paid.
        """


def _nothing(own: Any, settings: Settings) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Registration(Generic[S]):
    """What a provider's package declares, as `PROVIDER` in its module `registration`."""

    #: Its name in PROVIDERS, in records, logs and metrics.
    name: str
    #: A frozen dataclass of `setting()` fields.
    settings: type[S]
    #: Makes the provider from settings that were checked.
    make: Callable[[Context], Provider]
    #: The fields of `settings` that must be set.
    required: tuple[str, ...] = ()
    #: Whether its workers run on other machines, and so need a URL of the gateway.
    remote: bool = True
    #: Returns mistakes that only show in several settings together, of the provider's settings and the gateway's.
    check: Callable[[S, Settings], Iterable[str]] = _nothing
