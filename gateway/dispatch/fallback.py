"""Chooses the next provider, and limits the wait at each. After the last provider comes the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.domain.attempts import Attempt
from gateway.providers.base import NoCapacity, Provider, Unavailable
from wire.errors import EncoderUnavailable, EncoderUnsuitable, WorkerOutdated

# Error codes of an attempt after which the next provider is tried.
_ASK_NEXT = frozenset(
    error.code for error in (NoCapacity, Unavailable, WorkerOutdated, EncoderUnavailable, EncoderUnsuitable)
)


def next_provider(names: Sequence[str], previous: Attempt | None) -> str:
    """Return the provider of a job's next attempt: the first, or the one after `previous` if that could not run."""
    if previous is None or previous.provider not in names:
        return names[0]
    # The provider never confirmed the attempt, for example because it returned 500 to every submit.
    unknown = (previous.remote_id, previous.claim_id, previous.running_at) == (None, None, None)
    if not unknown and previous.error_code not in _ASK_NEXT:
        return names[0]
    return names[(names.index(previous.provider) + 1) % len(names)]


def waited_too_long(providers: Mapping[str, Provider], attempt: Attempt, now: int, factor: int = 1) -> bool:
    """Whether the attempt has waited for a worker longer than `factor` times its provider's queue limit.

    Always False if there is no other provider, or if the provider has no limit.
    """
    limit_s = queue_limit_s(providers, attempt)
    since = attempt.created_at if attempt.remote_id is None else attempt.sent_at or attempt.created_at
    return limit_s is not None and now - since > factor * limit_s * 1000


def queue_limit_s(providers: Mapping[str, Provider], attempt: Attempt) -> int | None:
    """Return how long an attempt may wait at its provider, in seconds; None if there is no limit."""
    provider = providers.get(attempt.provider)
    return provider.queue_limit_s if provider is not None and len(providers) > 1 else None
