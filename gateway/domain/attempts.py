"""One try of a job on one provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class AttemptState(StrEnum):
    """Of an attempt."""

    INTENT = "intent"
    SUBMITTED = "submitted"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    AMBIGUOUS = "ambiguous"
    SUPERSEDED = "superseded"


ENDED = frozenset({AttemptState.DONE, AttemptState.FAILED, AttemptState.SUPERSEDED})
ATTEMPT_CHANGES: Mapping[AttemptState, frozenset[AttemptState]] = {
    AttemptState.INTENT: frozenset(
        {
            AttemptState.SUBMITTED,
            AttemptState.CLAIMED,
            AttemptState.AMBIGUOUS,
            AttemptState.FAILED,
            AttemptState.SUPERSEDED,
        }
    ),
    AttemptState.AMBIGUOUS: frozenset({AttemptState.SUBMITTED, AttemptState.CLAIMED, *ENDED}),
    AttemptState.SUBMITTED: frozenset({AttemptState.CLAIMED, *ENDED}),
    AttemptState.CLAIMED: ENDED,
    **{state: frozenset() for state in ENDED},
}


class IllegalChange(Exception):
    """A bug: somebody asked for a change that the tables above do not have."""


@dataclass(frozen=True)
class Attempt:
    """One try of a job on one provider. `sent_at` is set while a submit is under way or has been accepted.

    `running_at`: when the provider first told that it runs.
    """

    id: str
    job_id: str
    provider: str
    state: AttemptState
    created_at: int
    deadline: int
    sent_at: int | None = None
    remote_id: str | None = None
    claim_id: str | None = None
    claimed_at: int | None = None
    heard_at: int | None = None
    ended_at: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    running_at: int | None = None
    cost_nano: int | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def output_key(self) -> str:
        return f"outputs/{self.job_id}/{self.id}.mp4"
