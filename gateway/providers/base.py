"""The contract of a provider.

`submit(attempt, job_input)` hands the attempt over. It answers
- `Accepted(remote_id)`: the provider has it, or
- `NotYet(reason, retry_in_s)`: it certainly has not, and asking later may help (a machine boots, a worker is busy);
or it raises
- `Refused`: the job's own fault,
- `NoCapacity` or `Unavailable`: nothing runs there, and another provider should be asked,
- `Ambiguous`: it may run, because the answer was lost.
An attempt that is submitted twice must not run twice where the provider can tell.

`poll(attempt)` answers a `Remote`. For an attempt without a remote id (its submit was ambiguous) it finds out by our
own id where the provider allows that, and else answers WAITING: the dispatcher limits how long. It raises `NoCapacity`
when the attempt never began there and never will; then it does not count, and another provider is asked.
`cancel(attempt)` takes the attempt back, without error if it is unknown there. `reconcile()` is called every few
seconds, by one process at a time, and returns within a minute. `check()` tells whether the provider can be reached.
`workers()` counts the machines there by the provider's own words for their states, where it tells.
`price(attempt, gpu)` is that of the machine that has or had the attempt, where the provider knows it, else that of one
there with `gpu`, the worker's own word for its GPU; None where nobody has to pay. No transaction is open then.
All but `submit` may otherwise raise `Unavailable` (ask again later) and nothing else. No call waits longer than its own
time-out, and no exception of an HTTP library gets out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from common.clock import Clock
from gateway.db.store import Store
from gateway.domain.attempts import Attempt
from gateway.domain.prices import Price
from gateway.settings import Settings
from gateway.signing import Signer
from wire.errors import JobError, JobFault, storable


@dataclass(frozen=True)
class Context:
    """What a provider may work with."""

    settings: Settings
    signer: Signer
    store: Store
    clock: Clock


@dataclass(frozen=True)
class Accepted:
    """The provider has the attempt, under its own id."""

    remote_id: str


@dataclass(frozen=True)
class NotYet:
    """The provider has not taken the attempt and will later, perhaps."""

    reason: str
    retry_in_s: float
    #: Whether a machine is on its way for this attempt, so that it may wait beyond the provider's queue limit.
    coming: bool = False


class Phase(StrEnum):
    """Where an attempt is, as its provider tells."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True)
class Remote:
    """What a provider tells of an attempt.

    `result` comes with COMPLETED and `error` with FAILED. Without them, as when a provider has lost the worker's
    answer, the attempt has failed and is tried again. `reason` says why it is WAITING; `execution_ms` is how long the
    machine was busy with it, where the provider bills that, and `took_ms` how long all took from the submit on.
    """

    phase: Phase
    progress: float | None = None
    result: Mapping[str, Any] | None = None
    error: JobError | None = None
    reason: str | None = None
    execution_ms: int | None = None
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
    """The provider cannot be reached or cannot run our jobs. `retry_in_s`: when it will be asked again, if known."""

    code = "provider_unavailable"

    def __init__(self, reason: str, retry_in_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_in_s = retry_in_s


class Ambiguous(ProviderError):
    """The attempt may or may not have been taken."""

    code = "ambiguous"


class Provider(Protocol):
    """See the module's docstring."""

    name: str
    #: Longest time an attempt waits there before the next provider is asked, in seconds; None for no limit.
    queue_limit_s: int | None

    def submit(self, attempt: Attempt, job_input: Mapping[str, Any]) -> Accepted | NotYet: ...

    def poll(self, attempt: Attempt) -> Remote: ...

    def cancel(self, attempt: Attempt) -> None: ...

    def reconcile(self) -> None: ...

    def check(self) -> None: ...

    def workers(self) -> Mapping[str, int]: ...

    def price(self, attempt: Attempt, gpu: str | None) -> Price | None: ...
