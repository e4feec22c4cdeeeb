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
    """The dependencies of a provider."""

    #: The gateway's settings, including the provider's own.
    settings: Settings
    #: Derives secrets of workers from SECRET_KEY.
    signer: Signer
    #: The gateway's database.
    store: Store
    #: The time, which tests control.
    clock: Clock


@dataclass(frozen=True)
class JobInput:
    """The input of a worker."""

    #: Operation, params and delivery as a JSON object. It may be a megabyte, and is sent as it is.
    text: str
    #: Name of the operation.
    operation: str
    #: Maximum time that the attempt may run, in seconds.
    timeout_s: int


@dataclass(frozen=True)
class Accepted:
    """The provider has accepted the attempt."""

    #: The provider's own id of the attempt.
    remote_id: str


@dataclass(frozen=True)
class NotYet:
    """The provider has not accepted the attempt, but may do so later."""

    #: Why, for the log and for `waiting_for` of the job.
    reason: str
    #: Seconds until the next try.
    retry_in_s: float
    #: Whether a machine is booting for this attempt, so that it may wait beyond the provider's queue limit.
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
    """The state of an attempt, as its provider reports it.

    COMPLETED without a result, or FAILED without an error, means that the provider lost the worker's response. The
    attempt has then failed, and the job is retried.
    """

    #: Where it is.
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
    """A call to a provider failed. The text is for the log and for `waiting_for`."""

    code = "provider_error"

    def __init__(self, reason: str) -> None:
        super().__init__(storable(reason))


class Refused(ProviderError):
    """The provider or its worker reports that the job itself is at fault."""

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
    """It is unknown whether the provider has accepted the attempt."""

    code = "ambiguous"


class Provider(Protocol):
    """Runs attempts on workers of one kind.

    Every method may raise `Unavailable` (ask again later), and otherwise only what its docstring lists: exceptions of
    HTTP libraries are translated. No call takes longer than its own time-out.
    """

    #: Its name in PROVIDERS.
    name: str
    #: Maximum time that an attempt waits there before the next provider is asked, in seconds; None for no limit.
    queue_limit_s: int | None

    def submit(self, attempt: Attempt, job_input: JobInput) -> Accepted | NotYet:
        """Submit the attempt with the worker's input. It is recorded, and no provider has it yet.

        Returns Accepted when the provider has it, and NotYet when it certainly does not but may take it later (a
        machine is booting, a worker is busy). Raises Refused when the job itself is at fault; NoCapacity or Unavailable
        when it does not run there and another provider should be asked; Ambiguous when it may run, because the response
        was lost. Where the provider can detect it, an attempt that is submitted twice must not run twice.
        """

    def poll(self, attempt: Attempt) -> Remote:
        """Return the state of the attempt.

        An attempt without a remote id, whose submit was ambiguous, is looked up by our own id where the provider allows
        that; otherwise it is WAITING, for as long as the dispatcher permits. Raises NoCapacity when it has not started
        there and never will: the job then loses no try, and another provider is asked.
        """

    def cancel(self, attempt: Attempt) -> None:
        """Cancel the attempt. It is no error if the provider does not know it."""

    def reconcile(self) -> None:
        """Manage the machines. Called every few seconds by one thread of each process; returns within a minute."""

    def check(self) -> None:
        """Return when the provider can be reached with our settings. Raises Unavailable with the reason."""

    def workers(self) -> Mapping[str, int]:
        """Return the number of workers or machines by state, in the provider's terms; empty if it is not known."""

    def price(self, attempt: Attempt, gpu: str | None) -> Price | None:
        """Return the price of the machine that has or had the attempt; called outside transactions.

        For an unknown machine, return the price of one with `gpu`, the name that the worker reported. None where
        nothing is paid.
        """


@dataclass(frozen=True)
class Registration(Generic[S]):
    """What a provider's package declares, as `PROVIDER` in its module `registration`."""

    #: Its name in PROVIDERS, in records, logs and metrics.
    name: str
    #: A frozen dataclass of `setting()` fields.
    settings: type[S]
    #: Makes the provider; the settings have been checked.
    make: Callable[[Context], Provider]
    #: The fields of `settings` that must be set.
    required: tuple[str, ...] = ()
    #: Whether its workers run on other machines, so that the gateway needs a public URL.
    remote: bool = True
    #: Returns mistakes in combinations of settings, the provider's and the gateway's.
    check: Callable[[S, Settings], Iterable[str]] = lambda own, settings: ()
