"""The order of providers, and how long an attempt waits at one before the next is asked."""

from __future__ import annotations

import pytest

from gateway.dispatch import fallback
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import NotYet, Phase, Remote, Unavailable
from tests.gateway.conftest import Gateway, Wire, new_attempt, new_job

LIMIT_S = 60


@pytest.fixture
def services(two: Gateway) -> Gateway:
    """Its providers `one` and `two` have a limit of their queue."""
    for provider in two.providers.values():
        provider.queue_limit_s = LIMIT_S
    return two


@pytest.mark.parametrize(
    ("previous", "chosen"),
    [
        ({"provider": "one", "error_code": "no_capacity"}, "two"),
        ({"provider": "two", "error_code": "no_capacity"}, "one"),
        ({"provider": "one", "error_code": "worker_lost"}, "one"),
        ({"provider": "one", "error_code": "submit_unconfirmed", "remote_id": None}, "two"),
        ({"provider": "removed", "error_code": "no_capacity"}, "one"),
    ],
)
def test_next_provider(previous: dict[str, str | None], chosen: str) -> None:
    attempt = new_attempt(new_job(0), 0, AttemptState.FAILED, **{"remote_id": "r", **previous})
    assert fallback.next_provider(["one", "two"], attempt) == chosen


def test_a_wait_in_the_providers_queue_ends_at_its_limit(services: Gateway) -> None:
    job = services.add_job()
    services.turn()
    services.provider.default["poll"] = Remote(Phase.WAITING, reason="its workers are busy")
    services.clock.advance(LIMIT_S * 1000)
    services.turn()
    assert len(services.store.attempts(job.id)) == 1
    services.clock.advance(30_000)
    services.turn()
    services.turn()
    first, second = services.store.attempts(job.id)
    assert (first.error_code, second.provider) == ("no_capacity", "two")
    assert first.error_message == f"no worker of one took the job within {LIMIT_S} s: its workers are busy"
    assert services.provider.called("cancel")
    assert services.job(job).tries == 1, "an attempt that never began costs no try"


def test_an_attempt_that_cannot_be_cancelled_stays(services: Gateway) -> None:
    job = services.add_job()
    services.turn()
    services.provider.default["cancel"] = Unavailable("down")
    services.clock.advance(LIMIT_S * 1000 + 30_000)
    services.turn()
    assert [attempt.provider for attempt in services.store.attempts(job.id)] == ["one"]


@pytest.mark.parametrize("coming", [False, True])
def test_an_attempt_waits_until_the_limit_unless_a_machine_is_coming(services: Gateway, coming: bool) -> None:
    job = services.add_job()
    services.provider.default["submit"] = NotYet("a machine boots", 1, coming=coming)
    services.turn()
    services.clock.advance(LIMIT_S * 1000 + 1)
    services.turn()
    services.turn()
    assert len(services.store.attempts(job.id)) == (1 if coming else 2)


def test_after_the_last_provider_comes_the_first(services: Gateway) -> None:
    job = services.add_job()
    for _ in range(3):
        services.turn()
        services.clock.advance(LIMIT_S * 1000 + 30_000)
        services.turn()
        services.clock.advance(60_000)
    services.turn()
    assert [attempt.provider for attempt in services.store.attempts(job.id)] == ["one", "two", "one", "two"]


def test_alone_a_provider_keeps_its_jobs(services: Gateway, wire: Wire) -> None:
    services = wire({"one": services.provider})
    job = services.add_job()
    services.turn()
    services.clock.advance(LIMIT_S * 10_000)
    services.turn()
    assert services.job(job).status is JobStatus.QUEUED
    assert len(services.store.attempts(job.id)) == 1


def test_an_attempt_that_never_began_moves_on_when_its_provider_is_unavailable(services: Gateway) -> None:
    job = services.add_job()
    services.turn()
    services.provider.default["poll"] = services.provider.default["cancel"] = Unavailable("down")
    services.clock.advance(2 * LIMIT_S * 1000)
    services.turn()
    assert len(services.store.attempts(job.id)) == 1
    services.clock.advance(30_000)
    services.turn()
    services.turn()
    assert len(services.store.attempts(job.id)) == 2
