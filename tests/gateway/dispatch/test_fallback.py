"""The order of providers, and how long an attempt waits at one before the next is asked."""

from __future__ import annotations

import pytest

from gateway.dispatch import fallback
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import NotYet, Phase, Remote, Unavailable
from gateway.wiring import Services
from tests.gateway.conftest import FakeProvider, FixedClock, JobFactory, Wire, new_attempt, new_job
from tests.gateway.dispatch.support import attempts_of, job_of, turn

LIMIT_S = 60


@pytest.fixture
def chain() -> dict[str, FakeProvider]:
    made = {name: FakeProvider(name) for name in ("first", "second")}
    for provider in made.values():
        provider.queue_limit_s = LIMIT_S
    return made


@pytest.fixture
def services(wire: Wire, chain: dict[str, FakeProvider]) -> Services:
    return wire(chain)


@pytest.mark.parametrize(
    ("previous", "chosen"),
    [
        ({"provider": "first", "error_code": "no_capacity"}, "second"),
        ({"provider": "second", "error_code": "no_capacity"}, "first"),
        ({"provider": "first", "error_code": "worker_lost"}, "first"),
        ({"provider": "first", "error_code": "submit_unconfirmed", "remote_id": None}, "second"),
        ({"provider": "removed", "error_code": "no_capacity"}, "first"),
    ],
)
def test_next_provider(previous: dict[str, str | None], chosen: str) -> None:
    attempt = new_attempt(new_job(0), 0, AttemptState.FAILED, **{"remote_id": "r", **previous})
    assert fallback.next_provider(["first", "second"], attempt) == chosen


def test_a_wait_in_the_providers_queue_ends_at_its_limit(
    services: Services, chain: dict[str, FakeProvider], clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory()
    turn(services)
    chain["first"].default["poll"] = Remote(Phase.WAITING, reason="its workers are busy")
    clock.advance(LIMIT_S * 1000)
    turn(services)
    assert len(attempts_of(services, job)) == 1
    clock.advance(30_000)
    turn(services)
    turn(services)
    first, second = attempts_of(services, job)
    assert (first.error_code, second.provider) == ("no_capacity", "second")
    assert first.error_message == f"no worker of first took the job within {LIMIT_S} s: its workers are busy"
    assert chain["first"].called("cancel")
    assert job_of(services, job).tries == 1, "an attempt that never began costs no try"


def test_an_attempt_that_cannot_be_cancelled_stays(
    services: Services, chain: dict[str, FakeProvider], clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory()
    turn(services)
    chain["first"].default["cancel"] = Unavailable("down")
    clock.advance(LIMIT_S * 1000 + 30_000)
    turn(services)
    assert [attempt.provider for attempt in attempts_of(services, job)] == ["first"]


@pytest.mark.parametrize("coming", [False, True])
def test_an_attempt_that_is_not_taken_waits_until_the_limit_unless_a_machine_comes(
    services: Services, chain: dict[str, FakeProvider], clock: FixedClock, job_factory: JobFactory, coming: bool
) -> None:
    job = job_factory()
    chain["first"].default["submit"] = NotYet("a machine boots", 1, coming=coming)
    turn(services)
    clock.advance(LIMIT_S * 1000 + 1)
    turn(services)
    turn(services)
    assert len(attempts_of(services, job)) == (1 if coming else 2)


def test_after_the_last_provider_comes_the_first(
    services: Services, chain: dict[str, FakeProvider], clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory()
    for _ in range(3):
        turn(services)
        clock.advance(LIMIT_S * 1000 + 30_000)
        turn(services)
        clock.advance(60_000)
    turn(services)
    assert [attempt.provider for attempt in attempts_of(services, job)] == ["first", "second", "first", "second"]


def test_alone_a_provider_keeps_its_jobs(
    wire: Wire, chain: dict[str, FakeProvider], clock: FixedClock, job_factory: JobFactory
) -> None:
    services = wire({"first": chain["first"]})
    job = job_factory()
    turn(services)
    clock.advance(LIMIT_S * 10_000)
    turn(services)
    assert job_of(services, job).status is JobStatus.QUEUED
    assert len(attempts_of(services, job)) == 1


def test_what_never_began_moves_on_when_its_provider_cannot_be_asked(
    services: Services, chain: dict[str, FakeProvider], clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory()
    turn(services)
    chain["first"].default["poll"] = chain["first"].default["cancel"] = Unavailable("down")
    clock.advance(2 * LIMIT_S * 1000)
    turn(services)
    assert len(attempts_of(services, job)) == 1
    clock.advance(30_000)
    turn(services)
    turn(services)
    assert len(attempts_of(services, job)) == 2
