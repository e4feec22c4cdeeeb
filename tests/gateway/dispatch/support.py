"""For tests of the dispatcher and its steps: one round at a time, and what the database holds after it."""

from __future__ import annotations

from collections.abc import Callable

from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from gateway.providers.base import Phase, Remote
from gateway.wiring import Services
from tests.gateway.conftest import CLAIM, FixedClock
from wire.envelope import Event

BODY = b"a finished video"
COMPLETED = Remote(
    Phase.COMPLETED,
    result={"outputs": {"video": {"size_bytes": len(BODY)}}, "stats": {"size_bytes": len(BODY), "duration_s": 2.0}},
)
GONE = Remote(Phase.GONE)
PutOutput = Callable[[str, bytes], None]


def turn(services: Services) -> int:
    """One round and all its steps."""
    started = services.dispatcher.tick()
    services.dispatcher.settle()
    return started


def job_of(services: Services, job: Job) -> Job:
    found = services.store.job(job.id)
    assert found is not None
    return found


def attempts_of(services: Services, job: Job) -> list[Attempt]:
    return services.store.attempts(job.id)


def states(services: Services, job: Job) -> list[AttemptState]:
    return [attempt.state for attempt in attempts_of(services, job)]


def until_due(services: Services, clock: FixedClock, job: Job) -> int:
    """Let the time come at which the job is looked at again; answers how long that was in ms."""
    next_at = job_of(services, job).next_at
    assert next_at is not None
    pause = max(0, next_at - clock.now_ms())
    clock.advance(pause)
    return pause


def follow(services: Services, clock: FixedClock, job: Job, rounds: int) -> None:
    for _ in range(rounds):
        until_due(services, clock, job)
        assert turn(services) == 1


def claim(services: Services, attempt_id: str | None, claim_id: str = CLAIM) -> None:
    assert attempt_id is not None
    services.reports.take(attempt_id, Event("started", claim_id))


def beat(services: Services, attempt_id: str | None, progress: float = 0.5) -> None:
    assert attempt_id is not None
    services.reports.take(attempt_id, Event("progress", CLAIM, progress=progress))
