"""Which provider is asked next, and how long an attempt may wait at one. After the last provider comes the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.domain.attempts import Attempt
from gateway.providers.base import NoCapacity, Provider, Unavailable
from wire.errors import EncoderUnavailable, WorkerOutdated

# Ends of an attempt after which the next provider is asked.
_ASK_NEXT = frozenset({NoCapacity.code, Unavailable.code, WorkerOutdated.code, EncoderUnavailable.code})


def next_provider(names: Sequence[str], previous: Attempt | None) -> str:
    """The provider of a job's next attempt: the first, or the next one where `previous` could not run."""
    if previous is None or previous.provider not in names:
        return names[0]
    # Nothing is known of it there, as when a provider returns 500 to every submit.
    unknown = (previous.remote_id, previous.claim_id, previous.running_at) == (None, None, None)
    if not unknown and previous.error_code not in _ASK_NEXT:
        return names[0]
    return names[(names.index(previous.provider) + 1) % len(names)]


def is_last(providers: Mapping[str, Provider], attempt: Attempt) -> bool:
    """Whether all providers have been asked, so that the next round waits a while."""
    return attempt.provider == list(providers)[-1]


def waited_too_long(providers: Mapping[str, Provider], attempt: Attempt, now: int, factor: int = 1) -> bool:
    """Whether the attempt has waited for a worker longer than its provider's queue limit, `factor` times over.

    A job keeps its place where there is no other provider to ask, and where the provider sets no limit.
    """
    limit_s = queue_limit_s(providers, attempt)
    since = attempt.created_at if attempt.remote_id is None else attempt.sent_at or attempt.created_at
    return limit_s is not None and now - since > factor * limit_s * 1000


def queue_limit_s(providers: Mapping[str, Provider], attempt: Attempt) -> int | None:
    """How long an attempt may wait at its provider; None where it keeps its place."""
    provider = providers.get(attempt.provider)
    return provider.queue_limit_s if provider is not None and len(providers) > 1 else None
