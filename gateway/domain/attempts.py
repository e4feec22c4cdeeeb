"""One try of a job on one provider: its states and their legal changes. Times are in ms UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.domain.outputs import Output


class AttemptState(StrEnum):
    """The state of an attempt."""

    #: Committed before it is submitted.
    INTENT = "intent"
    #: Its provider has it.
    SUBMITTED = "submitted"
    #: Its provider may have it: the reply to the submit was lost.
    AMBIGUOUS = "ambiguous"
    #: A worker runs it.
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    #: No longer wanted, because its job ended without it.
    SUPERSEDED = "superseded"


ENDED = frozenset({AttemptState.DONE, AttemptState.FAILED, AttemptState.SUPERSEDED})
_S = AttemptState
ATTEMPT_CHANGES: Mapping[AttemptState, frozenset[AttemptState]] = {
    _S.INTENT: frozenset({_S.SUBMITTED, _S.CLAIMED, _S.AMBIGUOUS, _S.FAILED, _S.SUPERSEDED}),
    _S.AMBIGUOUS: frozenset({_S.SUBMITTED, _S.CLAIMED, *ENDED}),
    _S.SUBMITTED: frozenset({_S.CLAIMED, *ENDED}),
    _S.CLAIMED: ENDED,
    **{state: frozenset() for state in ENDED},
}


class IllegalChange(Exception):
    """A bug: a transition that is not in the tables of legal changes."""


@dataclass(frozen=True)
class Attempt:
    """One try of a job on one provider."""

    #: `att_` and a ULID.
    id: str
    #: Id of its job.
    job_id: str
    #: The provider's name.
    provider: str
    #: Where it is in its life cycle.
    state: AttemptState
    #: When it was committed, before its first submit.
    created_at: int
    #: When the attempt is over in any case; its upload URLs and event token expire then.
    deadline: int
    #: When the current or accepted submit began; None if there is none.
    sent_at: int | None = None
    #: The provider's own id of the attempt; for a rental `<rental id>:<attempt id>`.
    remote_id: str | None = None
    #: Id that the claiming worker chose for its claim. No other claim is accepted.
    claim_id: str | None = None
    #: When it was claimed; None while no worker has claimed it.
    claimed_at: int | None = None
    #: When the claim's worker last reported.
    heard_at: int | None = None
    #: When it ended; None while it has not.
    ended_at: int | None = None
    #: Why it failed: an error's stable code, or a provider's, such as `no_capacity`.
    error_code: str | None = None
    #: Why it failed, as a message for people.
    error_message: str | None = None
    #: Why its machine's GPU did not encode, as the worker of a completed attempt reported it.
    gpu_failure: str | None = None
    #: When the provider first reported that it runs.
    running_at: int | None = None
    #: Its cost in nano-dollars; None while it runs, and if it cost nothing.
    cost_nano: int | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def output_key(self, name: str, output: Output) -> str:
        """The storage key of the output `name`."""
        return f"outputs/{self.job_id}/{self.id}/{name}.{output.media_type.extension}"
