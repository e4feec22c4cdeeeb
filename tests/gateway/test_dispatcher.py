"""The dispatcher, one round at a time, on a clock that stands still and with providers that answer by script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gateway import dispatcher as loop_module
from gateway import pace
from gateway import step as module
from gateway.costs import Price
from gateway.dispatcher import CHORE_MS, LEASE_MS, POOL, POOL_UNTRIED, TICK_MS
from gateway.jobs import MARGIN_MS, Attempt, Job, State, Status
from gateway.pace import TOLD_FIRST_MS
from gateway.providers.base import (
    Accepted,
    Ambiguous,
    NoCapacity,
    NotYet,
    Phase,
    Refused,
    Remote,
    Unavailable,
)
from gateway.settings import Settings
from gateway.step import AMBIGUOUS_MS, EVENTS_PURPOSE, SILENCE_MS, UNCLAIMED_MS
from gateway.storage import StorageUnavailable, StoredFile
from gateway.store import make_engine
from gateway.wiring import Services
from tests.gateway.conftest import (
    CLAIM,
    SECRET_KEY,
    START_MS,
    FakeProvider,
    FixedClock,
    JobFactory,
    Wire,
    on_every_database,
)
from tests.servers import eventually
from wire.envelope import ErrorSchema, Event, parse_job_input
from wire.errors import (
    AssetNotFound,
    AttemptSuperseded,
    EncodeFailed,
    EncoderUnavailable,
    InvalidParams,
    JobError,
    JobTimeout,
    Superseded,
    WorkerOutdated,
)

BODY = b"a finished video"
COMPLETED = Remote(Phase.COMPLETED, result={"stats": {"size_bytes": len(BODY), "duration_s": 2.0}})
GONE = Remote(Phase.GONE)
PutOutput = Callable[[str, bytes], None]


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.random, "uniform", lambda low, high: 1.0)


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


def states(services: Services, job: Job) -> list[State]:
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
    services.jobs.on_event(attempt_id, Event("started", claim_id))


def beat(services: Services, attempt_id: str | None, progress: float = 0.5) -> None:
    assert attempt_id is not None
    services.jobs.on_event(attempt_id, Event("progress", CLAIM, progress=progress))


# Submitting


@on_every_database
def test_the_intent_is_committed_before_the_provider_is_asked(
    services: Services, provider: FakeProvider, job_factory: JobFactory, settings: Settings
) -> None:
    job = job_factory()
    other = make_engine(settings.database, pool_size=1)
    seen: list[Any] = []

    def submit(attempt: Attempt) -> Accepted:
        query = "SELECT a.id, a.state, a.sent_at, j.attempt_id FROM attempts a JOIN jobs j ON j.id = a.job_id"
        with other.connect() as connection:
            seen.extend(map(tuple, connection.execute(sa.text(query))))
        return Accepted("r1")

    provider.script("submit", submit)
    assert turn(services) == 1
    (attempt,) = attempts_of(services, job)
    assert seen == [(attempt.id, "intent", START_MS, attempt.id)]
    other.dispose()


@on_every_database
def test_an_accepted_attempt_counts_and_is_looked_at_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory()
    provider.script("submit", Accepted("r1"))
    turn(services)
    (attempt,) = attempts_of(services, job)
    after = job_of(services, job)
    assert (attempt.state, attempt.remote_id, attempt.provider) == (State.SUBMITTED, "r1", "fake")
    assert (after.status, after.tries, after.lease_token, after.next_at) == (
        Status.QUEUED,
        1,
        None,
        START_MS + TOLD_FIRST_MS,
    )


def test_nothing_is_done_before_it_is_due(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job_factory(next_at=START_MS + 1)
    assert turn(services) == 0
    clock.advance(1)
    assert turn(services) == 1
    assert len(provider.called("submit")) == 1


def test_not_yet_keeps_the_attempt_and_pauses_longer_each_time(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.script("submit", *[NotYet("the worker is busy", 2.0)] * 6)
    pauses = []
    for _ in range(6):
        turn(services)
        pauses.append(until_due(services, clock, job))
    assert pauses == [2_000, 3_000, 4_500, 6_750, 10_000, 10_000]
    after = job_of(services, job)
    assert (after.tries, after.status, after.waiting_for) == (0, Status.QUEUED, "the worker is busy")
    turn(services)
    assert states(services, job) == [State.SUBMITTED]
    assert len({attempt.id for attempt in provider.called("submit")}) == 1
    assert (job_of(services, job).tries, job_of(services, job).waiting_for) == (1, None)


def test_waiting_ends_at_the_queue_limit_with_the_last_reason(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(queue_limit_s=20)
    provider.default["submit"] = NotYet("the worker is not up", 2.0)
    while not job_of(services, job).finished:
        turn(services)
        if not job_of(services, job).finished:
            until_due(services, clock, job)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.tries, after.next_at) == (Status.FAILED, "queue_timeout", 0, None)
    assert "the worker is not up" in (after.error_message or "")
    assert "20 s" in (after.error_message or "")
    assert states(services, job) == [State.SUPERSEDED]
    assert 20_000 <= clock.now_ms() - START_MS <= 30_000


@on_every_database
@pytest.mark.parametrize("end", ["accepted", "completed", "failed"])
def test_the_job_that_waited_longest_is_woken_when_a_worker_may_be_free(
    services: Services, provider: FakeProvider, job_factory: JobFactory, end: str
) -> None:
    first = job_factory(waits=3, next_at=START_MS + 9_000)
    second = job_factory(waits=3, next_at=START_MS + 9_000)
    busy = job_factory(attempt=State.SUBMITTED) if end != "accepted" else job_factory()
    if end == "failed":
        provider.script("poll", Remote(Phase.FAILED, error=AssetNotFound()))
    if end == "completed":
        services.storage.write(attempts_of(services, busy)[0].output_key, [BODY], len(BODY))
        provider.script("poll", COMPLETED)
    turn(services)
    assert job_of(services, first).next_at == START_MS
    assert job_of(services, second).next_at == START_MS + 9_000


def test_a_refused_job_fails_at_once(services: Services, provider: FakeProvider, job_factory: JobFactory) -> None:
    job = job_factory()
    provider.script("submit", Refused(InvalidParams("duration: too long")))
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.error_message) == (
        Status.FAILED,
        "invalid_params",
        "duration: too long",
    )
    assert states(services, job) == [State.FAILED]
    assert turn(services) == 0


@pytest.mark.parametrize("error", [Unavailable, NoCapacity])
def test_who_cannot_run_it_is_followed_by_the_next_in_the_chain(
    wire: Wire, job_factory: JobFactory, error: type[Exception]
) -> None:
    one, two = FakeProvider("one"), FakeProvider("two")
    services = wire({"one": one, "two": two})
    job = job_factory()
    one.script("submit", error("not here"))
    turn(services)
    assert job_of(services, job).next_at == START_MS
    turn(services)
    assert [(a.provider, a.state) for a in attempts_of(services, job)] == [
        ("one", State.FAILED),
        ("two", State.SUBMITTED),
    ]
    assert job_of(services, job).tries == 1


def test_the_chain_wraps_round_with_back_off_up_to_the_queue_limit(
    wire: Wire, job_factory: JobFactory, clock: FixedClock
) -> None:
    chain = {name: FakeProvider(name) for name in ("one", "two")}
    services = wire(chain)
    for fake in chain.values():
        fake.default["submit"] = NoCapacity("none free")
    job = job_factory(queue_limit_s=600)
    pauses = []
    while not job_of(services, job).finished:
        turn(services)
        if not job_of(services, job).finished:
            pauses.append(until_due(services, clock, job))
    assert all(pause == 0 for pause in pauses[::2])
    assert pauses[1] < pauses[3] < pauses[5]
    assert max(pauses) == 60_000
    after = job_of(services, job)
    assert (after.error_code, after.tries) == ("queue_timeout", 0)
    assert "none free" in (after.error_message or "")
    tried = [attempt.provider for attempt in attempts_of(services, job)]
    assert tried == ["one", "two"] * (len(tried) // 2)


def test_who_waited_at_the_last_provider_goes_on_to_the_first_at_once(
    wire: Wire, job_factory: JobFactory, clock: FixedClock
) -> None:
    one, two = FakeProvider("one"), FakeProvider("two")
    services = wire({"one": one, "two": two})
    one.script("submit", Unavailable("not here"))
    two.script("submit", *[NotYet("busy", 2.0)] * 20, NoCapacity("busy for too long"))
    job = job_factory()
    turn(services)
    follow(services, clock, job, 21)
    assert [a.error_code for a in attempts_of(services, job)] == ["provider_unavailable", "no_capacity"]
    assert until_due(services, clock, job) == 0
    turn(services)
    assert attempts_of(services, job)[-1].provider == "one"


def test_times_are_stored_as_whole_milliseconds(
    services: Services, provider: FakeProvider, job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.random, "uniform", lambda low, high: 1.000123)
    refused, busy = job_factory(), job_factory()
    provider.script("submit", NoCapacity("full"), NotYet("busy", 0.0123456))
    turn(services)
    assert all(isinstance(job_of(services, job).next_at, int) for job in (refused, busy))


@pytest.mark.parametrize("error", [WorkerOutdated(), EncoderUnavailable()])
def test_a_worker_that_cannot_do_it_sends_the_job_to_the_next_provider(
    error: JobError, wire: Wire, job_factory: JobFactory, clock: FixedClock
) -> None:
    chain = {name: FakeProvider(name) for name in ("one", "two")}
    services = wire(chain)
    job = job_factory()
    chain["one"].script("poll", Remote(Phase.FAILED, error=error))
    turn(services)
    follow(services, clock, job, 2)
    assert [attempt.provider for attempt in attempts_of(services, job)] == ["one", "two"]


def test_a_worker_that_failed_is_tried_again_at_the_same_provider(
    wire: Wire, job_factory: JobFactory, clock: FixedClock
) -> None:
    chain = {name: FakeProvider(name) for name in ("one", "two")}
    services = wire(chain)
    job = job_factory()
    chain["one"].script("poll", Remote(Phase.FAILED, error=EncodeFailed()))
    turn(services)
    follow(services, clock, job, 2)
    assert [attempt.provider for attempt in attempts_of(services, job)] == ["one", "one"]


# Doubt


def test_an_ambiguous_submit_is_polled_and_counts(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.script("submit", Ambiguous("the answer was lost")).script("poll", Remote(Phase.RUNNING, progress=0.3))
    turn(services)
    assert (states(services, job), job_of(services, job).tries) == ([State.AMBIGUOUS], 1)
    follow(services, clock, job, 1)
    after = job_of(services, job)
    assert (states(services, job), after.status, after.progress) == ([State.SUBMITTED], Status.RUNNING, 0.3)
    assert (len(provider.called("submit")), after.tries) == (1, 1)


def test_a_crash_between_submit_and_its_answer_is_ambiguous_not_lost(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.INTENT, lease_token="of the dead", lease_expires_at=START_MS + 500)
    assert turn(services) == 0
    clock.advance(500)
    provider.script("poll", GONE)
    turn(services)
    assert (states(services, job), provider.calls) == ([State.AMBIGUOUS], [])
    follow(services, clock, job, 1)
    assert states(services, job) == [State.FAILED]
    follow(services, clock, job, 1)
    assert states(services, job) == [State.FAILED, State.SUBMITTED]
    assert job_of(services, job).tries == 2


def test_a_crash_before_anything_was_sent_loses_no_try(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(lease_token="of the dead", lease_expires_at=START_MS)
    turn(services)
    assert (states(services, job), job_of(services, job).tries) == ([State.SUBMITTED], 1)


def test_a_provider_that_cannot_be_polled_is_asked_again_later(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.SUBMITTED)
    provider.script("poll", Unavailable("500"), Unavailable("500"))
    turn(services)
    follow(services, clock, job, 2)
    assert (states(services, job), len(provider.called("poll"))) == ([State.SUBMITTED], 3)


# Claims and silence


@on_every_database
def test_a_silent_claim_is_dead_and_the_job_is_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    turn(services)
    claim(services, job_of(services, job).attempt_id)
    clock.advance(SILENCE_MS)
    turn(services)
    assert states(services, job) == [State.CLAIMED]
    clock.advance(10_000)
    turn(services)
    (attempt,) = attempts_of(services, job)
    assert (attempt.state, attempt.error_code) == (State.FAILED, "worker_lost")
    assert [a.id for a in provider.called("cancel")] == [attempt.id]
    assert job_of(services, job).status is Status.QUEUED
    with pytest.raises(AttemptSuperseded):
        beat(services, attempt.id)


def test_a_claim_that_reports_is_never_taken_back(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    turn(services)
    claim(services, job_of(services, job).attempt_id)
    for _ in range(20):
        clock.advance(SILENCE_MS - 1)
        beat(services, job_of(services, job).attempt_id)
        turn(services)
    assert (states(services, job), provider.called("cancel")) == ([State.CLAIMED], [])


def test_three_silent_claims_fail_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    while not job_of(services, job).finished:
        turn(services)
        claim(services, job_of(services, job).attempt_id)
        clock.advance(SILENCE_MS + 1)
        turn(services)
        if not job_of(services, job).finished:
            until_due(services, clock, job)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.tries) == (Status.FAILED, "worker_lost", 3)
    assert states(services, job) == [State.FAILED] * 3


def test_a_dead_claim_is_given_up_even_when_the_provider_cannot_be_told(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.CLAIMED, status=Status.RUNNING, tries=1)
    provider.script("cancel", Unavailable("500"))
    turn(services)
    clock.advance(SILENCE_MS + 1)
    turn(services)
    assert states(services, job) == [State.FAILED]


def test_silence_does_not_count_while_no_gateway_ran(
    wire: Wire, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.CLAIMED, status=Status.RUNNING, tries=1)
    clock.advance(10 * SILENCE_MS)
    fresh = wire()
    turn(fresh)
    assert states(fresh, job) == [State.CLAIMED]
    clock.advance(SILENCE_MS)
    turn(fresh)
    assert states(fresh, job) == [State.CLAIMED]
    clock.advance(10_000)
    turn(fresh)
    assert states(fresh, job) == [State.FAILED]


def test_a_claim_that_runs_past_its_time_is_stopped_for_good(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.CLAIMED, status=Status.RUNNING, tries=1, timeout_s=60)
    clock.advance(60_000 + MARGIN_MS + 1)
    beat(services, job.attempt_id)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, len(provider.called("cancel"))) == (Status.FAILED, "job_timeout", 1)


def test_what_nobody_claimed_until_its_deadline_fails(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.SUBMITTED, tries=1)
    clock.advance(attempts_of(services, job)[0].deadline - START_MS + 1)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, len(provider.called("cancel"))) == (Status.FAILED, "queue_timeout", 1)


# Ends that only a poll tells


def test_a_completed_poll_with_its_output_completes_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory, put_output: PutOutput
) -> None:
    job = job_factory(attempt=State.SUBMITTED, tries=1)
    put_output(job.attempt_id or "", BODY)
    provider.script("poll", COMPLETED)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.progress, after.next_at) == (Status.COMPLETED, 1.0, None)
    assert after.stats == {"size_bytes": len(BODY), "duration_s": 2.0, "provider": "fake"}
    assert states(services, job) == [State.DONE]


@pytest.mark.parametrize("stored", [None, BODY[:-1], BODY + b"!", b""])
def test_a_completed_poll_without_the_whole_output_is_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, put_output: PutOutput, stored: bytes | None
) -> None:
    job = job_factory(attempt=State.SUBMITTED, tries=1)
    if stored is not None:
        put_output(job.attempt_id or "", stored)
    provider.script("poll", COMPLETED)
    turn(services)
    assert attempts_of(services, job)[0].error_code == "output_missing"
    assert job_of(services, job).status is Status.QUEUED


def test_a_storage_that_cannot_be_asked_is_asked_again(
    services: Services,
    provider: FakeProvider,
    job_factory: JobFactory,
    put_output: PutOutput,
    clock: FixedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job_factory()
    turn(services)
    put_output(attempts_of(services, job)[0].id, BODY)
    provider.default["poll"] = COMPLETED
    with monkeypatch.context() as patch:
        patch.setattr(services.storage, "stat", unreachable)
        clock.advance(60_000)
        turn(services)
        after = job_of(services, job)
        assert (after.next_at, after.lease_token) == (clock.now_ms() + module.LATER_MS, None)
    clock.advance(module.LATER_MS)
    turn(services)
    assert (job_of(services, job).status, states(services, job)) == (Status.COMPLETED, [State.DONE])


def unreachable(key: str) -> StoredFile:
    raise StorageUnavailable("S3 could not be reached")


def test_a_failed_poll_with_the_jobs_own_fault_fails_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=State.SUBMITTED, tries=1)
    provider.script("poll", Remote(Phase.FAILED, error=AssetNotFound("video: 404")))
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.error_message) == (Status.FAILED, "asset_not_found", "video: 404")


def test_failed_polls_are_tried_again_twice(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.default["poll"] = Remote(Phase.FAILED, error=EncodeFailed())
    turn(services)
    follow(services, clock, job, 5)
    assert (job_of(services, job).error_code, states(services, job)) == ("encode_failed", [State.FAILED] * 3)


def test_polled_progress_goes_on_and_never_back(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.SUBMITTED, tries=1)
    provider.script("poll", *[Remote(Phase.RUNNING, progress=progress) for progress in (0.2, 0.6, 0.4)])
    turn(services)
    follow(services, clock, job, 2)
    assert job_of(services, job).progress == 0.6


def test_a_superseded_poll_never_ends_an_attempt_whose_claim_is_alive(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=State.CLAIMED, status=Status.RUNNING, tries=1)
    provider.script("poll", Remote(Phase.FAILED, error=Superseded()))
    turn(services)
    assert states(services, job) == [State.CLAIMED]
    beat(services, job.attempt_id)


@pytest.mark.parametrize("answer", [Remote(Phase.FAILED, error=Superseded()), GONE])
def test_a_claim_that_comes_during_the_poll_is_newer_than_its_answer(
    services: Services, provider: FakeProvider, job_factory: JobFactory, answer: Remote
) -> None:
    job = job_factory(attempt=State.AMBIGUOUS, tries=1)

    def poll(attempt: Attempt) -> Remote:
        claim(services, attempt.id)
        return answer

    provider.script("poll", poll)
    turn(services)
    after = job_of(services, job)
    assert (states(services, job), after.status) == ([State.CLAIMED], Status.RUNNING)
    assert (after.lease_token, after.next_at) == (None, START_MS + 10_000)


def test_a_superseded_poll_of_an_unclaimed_attempt_is_a_lost_worker(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=State.SUBMITTED, tries=1)
    provider.script("poll", Remote(Phase.FAILED, error=Superseded()))
    turn(services)
    assert attempts_of(services, job)[0].error_code == "worker_lost"
    assert job_of(services, job).status is Status.QUEUED


# Cancelled jobs


@pytest.mark.parametrize("state", [State.INTENT, State.SUBMITTED, State.CLAIMED, State.AMBIGUOUS])
def test_a_cancelled_job_is_taken_back_from_its_provider(
    services: Services, provider: FakeProvider, job_factory: JobFactory, state: State
) -> None:
    job = job_factory(attempt=state)
    services.jobs.cancel(job.id, job.key_id)
    turn(services)
    assert [attempt.id for attempt in provider.called("cancel")] == [job.attempt_id]
    assert (states(services, job), job_of(services, job).next_at) == ([State.SUPERSEDED], None)
    assert job_of(services, job).status is Status.CANCELLED


def test_a_job_cancelled_before_anything_was_sent_asks_nobody(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory()
    services.jobs.cancel(job.id, job.key_id)
    turn(services)
    assert (provider.calls, job_of(services, job).next_at) == ([], None)


def test_cancelling_is_tried_again_until_the_provider_has_heard(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    provider.script("cancel", Unavailable("500"), Unavailable("500"))
    turn(services)
    follow(services, clock, job, 2)
    assert len(provider.called("cancel")) == 3
    assert (states(services, job), job_of(services, job).next_at) == ([State.SUPERSEDED], None)


def test_cancelling_is_given_up_after_the_deadline(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    provider.default["cancel"] = Unavailable("500")
    clock.advance(attempts_of(services, job)[0].deadline - START_MS)
    turn(services)
    assert (states(services, job), job_of(services, job).next_at) == ([State.SUPERSEDED], None)


# Races


@on_every_database
def test_a_result_that_comes_after_the_lease_is_dropped(
    services: Services, wire: Wire, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    inside, go_on = threading.Event(), threading.Event()

    def slow(attempt: Attempt) -> Accepted:
        inside.set()
        assert go_on.wait(10)
        return Accepted("from the slow one")

    provider.script("submit", slow)
    services.dispatcher.tick()
    assert inside.wait(10)
    clock.advance(LEASE_MS)
    other = wire()
    turn(other)
    assert states(other, job) == [State.AMBIGUOUS]
    turn(other)
    before = job_of(other, job), attempts_of(other, job)
    go_on.set()
    services.dispatcher.settle()
    [attempt] = attempts_of(other, job)
    assert (job_of(other, job), replace(attempt, remote_id=None)) == (before[0], before[1][0])
    assert attempt.remote_id == "from the slow one", "what only the late answer told is kept"
    assert len(provider.called("submit")) == 1


@on_every_database
@pytest.mark.parametrize("answer", [Accepted("r1"), Ambiguous("lost"), NotYet("busy", 2.0)])
def test_a_claim_that_comes_before_the_answer_stays(
    services: Services, provider: FakeProvider, job_factory: JobFactory, answer: Any
) -> None:
    job = job_factory()

    def submit(attempt: Attempt) -> Any:
        claim(services, attempt.id)
        beat(services, attempt.id, 0.4)
        return answer

    provider.script("submit", submit)
    turn(services)
    (attempt,) = attempts_of(services, job)
    after = job_of(services, job)
    assert (attempt.state, attempt.claim_id, attempt.sent_at) == (State.CLAIMED, CLAIM, START_MS)
    assert (after.status, after.progress, after.tries, after.waiting_for) == (Status.RUNNING, 0.4, 1, None)


@on_every_database
def test_an_end_that_comes_before_the_answer_stays(
    services: Services, provider: FakeProvider, job_factory: JobFactory, put_output: PutOutput
) -> None:
    job = job_factory()

    def submit(attempt: Attempt) -> Accepted:
        claim(services, attempt.id)
        put_output(attempt.id, BODY)
        services.jobs.on_event(attempt.id, Event("completed", CLAIM, result=COMPLETED.result))
        return Accepted("r1")

    provider.script("submit", submit)
    turn(services)
    assert (job_of(services, job).status, states(services, job)) == (Status.COMPLETED, [State.DONE])
    assert turn(services) == 0


@on_every_database
def test_a_job_cancelled_during_its_submit_is_taken_back(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory()

    def submit(attempt: Attempt) -> Accepted:
        services.jobs.cancel(job.id, job.key_id)
        return Accepted("r1")

    provider.script("submit", submit)
    turn(services)
    turn(services)
    assert (job_of(services, job).status, states(services, job)) == (Status.CANCELLED, [State.SUPERSEDED])
    # at once, and under the id that only the late answer told
    assert provider.called("cancel")[0].remote_id == "r1"


@on_every_database
def test_two_dispatchers_never_take_the_same_job(
    services: Services, wire: Wire, provider: FakeProvider, job_factory: JobFactory
) -> None:
    made = [job_factory() for _ in range(30)]
    gateways = [services, wire(), wire()]
    barrier = threading.Barrier(3)

    def work(gateway: Services) -> None:
        barrier.wait()
        while turn(gateway):
            pass

    threads = [threading.Thread(target=work, args=[gateway]) for gateway in gateways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(attempt.job_id for attempt in provider.called("submit")) == sorted(job.id for job in made)


def test_providers_are_called_side_by_side_but_never_too_many_at_once(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    all_in = threading.Barrier(POOL + 1)
    go_on = threading.Event()

    def slow(attempt: Attempt) -> Remote:
        all_in.wait(10)
        go_on.wait(10)
        return Remote(Phase.RUNNING)

    for _ in range(POOL + 5):
        job_factory(attempt=State.SUBMITTED)
    provider.script("poll", *[slow] * POOL)
    assert services.dispatcher.tick() == POOL
    all_in.wait(10)
    assert services.dispatcher.tick() == 0
    go_on.set()
    services.dispatcher.settle()
    assert turn(services) == 5


def test_however_many_jobs_come_others_are_still_looked_at(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    go_on = threading.Event()

    def slow(attempt: Attempt) -> Accepted:
        go_on.wait(10)
        return Accepted("r")

    provider.script("submit", *[slow] * POOL_UNTRIED)
    for _ in range(POOL + 5):
        job_factory()
    assert services.dispatcher.tick() == POOL_UNTRIED
    followed = job_factory(attempt=State.SUBMITTED)
    assert services.dispatcher.tick() == 1
    eventually(
        lambda: (job_of(services, followed).next_at or 0) > START_MS and not job_of(services, followed).lease_token
    )
    assert services.dispatcher.tick() == 0
    go_on.set()
    services.dispatcher.settle()
    assert turn(services) == POOL + 5 - POOL_UNTRIED


# What breaks


@pytest.mark.parametrize("method", ["submit", "poll", "cancel"])
def test_a_bug_of_a_provider_costs_one_lease(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock, method: str
) -> None:
    job = job_factory() if method == "submit" else job_factory(attempt=State.SUBMITTED, tries=1)
    if method == "cancel":
        services.jobs.cancel(job.id, job.key_id)
    provider.script(method, RuntimeError("a bug"))
    assert turn(services) == 1
    assert turn(services) == 0
    clock.advance(LEASE_MS)
    assert turn(services) == 1
    expected = {"submit": State.AMBIGUOUS, "poll": State.SUBMITTED, "cancel": State.SUPERSEDED}
    assert states(services, job) == [expected[method]]


@pytest.mark.parametrize("error", [Unavailable("500"), RuntimeError("a bug")])
def test_reconciling_that_fails_stops_nothing(
    wire: Wire, job_factory: JobFactory, clock: FixedClock, error: Exception
) -> None:
    chain = {name: FakeProvider(name) for name in ("one", "two")}
    services = wire(chain)
    chain["one"].script("reconcile", error)
    job_factory()
    assert turn(services) == 1
    assert [fake.reconciled for fake in chain.values()] == [1, 1]


@pytest.mark.parametrize("state", [State.INTENT, State.SUBMITTED, State.CLAIMED])
def test_a_job_of_a_provider_that_was_taken_out_still_ends(
    wire: Wire, job_factory: JobFactory, clock: FixedClock, state: State
) -> None:
    job = job_factory(attempt=state, tries=1, queue_limit_s=60, timeout_s=60)
    services = wire({"other": FakeProvider("other")})
    for _ in range(2000):
        if job_of(services, job).attempt_id != job.attempt_id or job_of(services, job).finished:
            return
        until_due(services, clock, job)
        turn(services)
    pytest.fail("the job never left the provider")


def test_a_cancelled_job_of_a_provider_that_was_taken_out_is_let_go(
    wire: Wire, services: Services, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    clock.advance(attempts_of(services, job)[0].deadline - START_MS)
    turn(wire({"other": FakeProvider("other")}))
    assert states(services, job) == [State.SUPERSEDED]


@on_every_database
def test_one_gateway_at_a_time_reconciles(
    services: Services, wire: Wire, provider: FakeProvider, clock: FixedClock
) -> None:
    other = wire()
    for _ in range(3):
        turn(services)
        turn(other)
        clock.advance(TICK_MS)
    assert provider.reconciled == 3
    assert other.store.lease_expires_at("reconcile:fake") == clock.now_ms() - TICK_MS + CHORE_MS
    clock.advance(CHORE_MS)
    turn(other)
    assert provider.reconciled == 4


def test_one_gateway_at_a_time_cleans_up(
    services: Services, wire: Wire, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, cleaned = wire(), []
    for each in (services, other):
        monkeypatch.setattr(each.dispatcher._janitor, "step", lambda _, each=each: cleaned.append(each))
    for _ in range(3):
        turn(services)
        turn(other)
        clock.advance(TICK_MS)
    assert cleaned == [services] * 3
    clock.advance(CHORE_MS)
    turn(other)
    assert cleaned[3:] == [other]


def test_a_clean_up_that_fails_stops_nothing(
    services: Services, clock: FixedClock, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(services.dispatcher._janitor, "step", fail)
    turn(services)
    clock.advance(TICK_MS)
    turn(services)
    assert provider.reconciled == 2


def test_reconciling_that_takes_long_holds_up_no_job(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    going_on = threading.Event()
    provider.script("reconcile", lambda _: going_on.wait(10) and None)
    services.dispatcher.tick()
    job_factory()
    clock.advance(TICK_MS)
    services.dispatcher.tick()
    eventually(lambda: provider.called("submit"))
    assert provider.reconciled == 1
    going_on.set()
    services.dispatcher.settle()


def test_another_gateway_takes_over_a_chore_that_hangs(
    services: Services, wire: Wire, provider: FakeProvider, clock: FixedClock
) -> None:
    going_on = threading.Event()
    provider.script("reconcile", lambda _: going_on.wait(20) and None)
    services.dispatcher.tick()
    eventually(lambda: provider.reconciled == 1)
    for _ in range(CHORE_MS // TICK_MS):
        clock.advance(TICK_MS)
        services.dispatcher.tick()
    other = wire()
    turn(other)
    assert provider.reconciled == 2
    going_on.set()
    services.dispatcher.settle()


def test_a_claim_that_came_before_the_next_offer_is_kept(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    """The provider said not yet, and took it all the same."""
    job = job_factory()
    provider.script("submit", NotYet("busy", 1))
    turn(services)
    leased: list[str] = []
    take = services.store.attempt

    def claim_between(attempt_id: str) -> Attempt | None:
        found = take(attempt_id)
        if not leased:
            leased.append(attempt_id)
            services.jobs.on_event(attempt_id, Event("started", "claim-of-worker"))
        return found

    services.store.attempt = claim_between  # type: ignore[method-assign]
    clock.advance(20_000)
    turn(services)
    services.store.attempt = take  # type: ignore[method-assign]
    attempt = attempts_of(services, job)[0]
    assert (attempt.state, attempt.claim_id) == (State.CLAIMED, "claim-of-worker")
    assert len(provider.called("submit")) == 1


def test_an_ambiguous_attempt_that_nobody_knows_is_given_up_and_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.script("submit", Ambiguous("cut"))
    turn(services)
    clock.advance(AMBIGUOUS_MS + 3_000)
    turn(services)
    assert states(services, job) == [State.FAILED]
    assert attempts_of(services, job)[0].error_code == "submit_unconfirmed"
    assert not job_of(services, job).finished


def test_what_one_provider_leaves_in_doubt_the_next_one_is_asked_for(
    wire: Wire, job_factory: JobFactory, clock: FixedClock
) -> None:
    chain = {name: FakeProvider(name) for name in ("one", "two")}
    chain["one"].default["submit"] = Ambiguous("500 to every submit")
    services = wire(chain)
    job = job_factory()
    turn(services)
    clock.advance(AMBIGUOUS_MS + 3_000)
    turn(services)
    follow(services, clock, job, 1)
    assert [(a.provider, a.state) for a in attempts_of(services, job)] == [
        ("one", State.FAILED),
        ("two", State.SUBMITTED),
    ]


def test_a_message_that_no_database_takes_ends_the_attempt_all_the_same(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    turned_down, failed = job_factory(), job_factory(attempt=State.SUBMITTED)
    provider.script("submit", Unavailable("half: \ud800, none: \0"))
    error = ErrorSchema().load({"code": "worker_error", "message": "half: \ud800, none: \0", "retryable": True})
    provider.script("poll", Remote(Phase.FAILED, error=error))
    clock.advance(3_000)
    turn(services)
    for job in (turned_down, failed):
        (attempt,) = attempts_of(services, job)
        assert (attempt.state, attempt.error_message) == (State.FAILED, "half: ?, none: ?")


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED])
def test_an_end_without_its_details_is_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock, phase: Phase
) -> None:
    job = job_factory(attempt=State.SUBMITTED)
    provider.default["poll"] = Remote(phase)
    clock.advance(3_000)
    turn(services)
    assert states(services, job) == [State.FAILED]
    assert job_of(services, job).status is Status.QUEUED


def test_what_never_began_there_does_not_count(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=State.SUBMITTED, tries=1)
    provider.script("poll", NoCapacity("nothing took it"))
    clock.advance(3_000)
    turn(services)
    assert (job_of(services, job).tries, states(services, job)) == (0, [State.FAILED])


def test_the_loop_outlives_a_broken_database_and_a_bug(
    services: Services, provider: FakeProvider, job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "IDLE_S", 0.01)
    broken = [OperationalError("SELECT", {}, Exception("disk I/O error")) for _ in range(3)]
    due = services.store.due

    def sometimes(*asked: int) -> list[str]:
        if broken:
            raise broken.pop()
        return due(*asked)

    monkeypatch.setattr(services.store, "due", sometimes)
    provider.script("submit", RuntimeError("a bug"))
    both = job_factory(), job_factory()
    services.dispatcher.start()
    eventually(lambda: len(provider.called("submit")) == 2, 30)
    eventually(lambda: any(State.SUBMITTED in states(services, job) for job in both), 30)
    services.dispatcher.stop()
    assert not broken


def test_the_loop_takes_a_new_job_at_once_and_stops_when_told(services: Services, provider: FakeProvider) -> None:
    services.dispatcher.start()
    job = services.jobs.create("key_a", "caption", {})
    eventually(lambda: states(services, job) == [State.SUBMITTED], seconds=0.9)
    services.dispatcher.stop()
    services.jobs.create("key_a", "caption", {})
    assert len(provider.called("submit")) == 1


def test_jobs_that_nobody_has_tried_go_before_looks(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    followed = [job_factory(attempt=State.SUBMITTED) for _ in range(3)]
    new = job_factory()
    assert services.store.due(START_MS, 1) == [new.id]
    assert services.store.due(START_MS, 9) == [new.id, *[job.id for job in followed]]


# What a provider tells while a job waits, runs and ends


def test_claimed_attempts_too_share_the_looks_of_a_second(
    services: Services, provider: FakeProvider, job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LOOKS_A_SECOND", 2)
    provider.default["poll"] = Remote(Phase.RUNNING, progress=0.1)
    claimed = [job_factory(attempt=State.CLAIMED, status=Status.RUNNING, tries=1) for _ in range(5)]
    turn(services)
    pauses = sorted((job_of(services, job).next_at or 0) - START_MS for job in claimed)
    assert pauses == [10_000, 10_000, 11_000, 11_000, 12_000]


def test_why_it_waits_is_told_until_it_runs(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=State.SUBMITTED)
    provider.script("poll", Remote(Phase.WAITING, reason="no GPU is free"), Remote(Phase.RUNNING, progress=0.5))
    turn(services)
    assert job_of(services, job).waiting_for == "no GPU is free"
    until_due(services, clock, job)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.waiting_for, after.progress) == (Status.RUNNING, None, 0.5)


def test_a_job_that_waits_there_past_its_queue_limit_is_taken_back(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=State.SUBMITTED, queue_limit_s=60)
    provider.default["poll"] = Remote(Phase.WAITING, reason="no GPU is free")
    turn(services)
    clock.advance(60_001)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code) == (Status.FAILED, "queue_timeout")
    assert after.error_message == "No worker took the job within 60 s. The last reason: no GPU is free."
    assert len(provider.called("cancel")) == 1


def test_a_worker_that_takes_a_job_and_never_begins_it_is_lost(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=State.SUBMITTED)
    provider.default["poll"] = Remote(Phase.RUNNING)
    turn(services)
    clock.advance(UNCLAIMED_MS + 1)
    turn(services)
    assert states(services, job) == [State.FAILED]
    assert attempts_of(services, job)[0].error_code == "claim_timeout"
    assert len(provider.called("cancel")) == 1


def test_without_events_nobody_claims_and_the_work_goes_on(
    wire: Wire, clock: FixedClock, job_factory: JobFactory
) -> None:
    provider = FakeProvider()
    services = wire({"fake": provider}, worker_events=False)
    job = job_factory(attempt=State.SUBMITTED)
    provider.default["poll"] = Remote(Phase.RUNNING, progress=0.25)
    turn(services)
    clock.advance(UNCLAIMED_MS + 1)
    turn(services)
    assert states(services, job) == [State.SUBMITTED]
    assert job_of(services, job).progress == 0.25


def test_without_events_the_worker_is_not_told_of_any(wire: Wire, job_factory: JobFactory) -> None:
    provider = FakeProvider()
    services = wire({"fake": provider}, worker_events=False)
    job_factory()
    turn(services)
    delivery = parse_job_input(json.loads(json.dumps(provider.inputs[0]))).delivery
    assert delivery is not None
    assert delivery.events is None
    assert delivery.upload is not None


def test_a_time_out_there_of_what_nobody_claimed_is_no_fault_of_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    lost = job_factory(attempt=State.SUBMITTED)
    provider.default["poll"] = Remote(Phase.FAILED, error=JobTimeout())
    turn(services)
    assert (job_of(services, lost).status, attempts_of(services, lost)[0].error_code) == (
        Status.QUEUED,
        "claim_timeout",
    )
    slow = job_factory(attempt=State.CLAIMED)
    turn(services)
    assert (job_of(services, slow).status, job_of(services, slow).error_code) == (Status.FAILED, "job_timeout")


def test_a_provider_that_says_when_it_is_asked_again_is_asked_then(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(waits=9)
    provider.script("submit", Unavailable("it keeps failing", 4.0))
    turn(services)
    assert job_of(services, job).next_at == clock.now_ms() + 4_000


def test_what_was_found_out_of_no_attempt_stays_ambiguous(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory()
    provider.script("submit", Ambiguous("the answer was lost"))
    turn(services)
    until_due(services, clock, job)
    turn(services)
    assert states(services, job) == [State.AMBIGUOUS], "WAITING does not say that it was found"
    clock.advance(AMBIGUOUS_MS + 1)
    turn(services)
    assert attempts_of(services, job)[0].error_code == "submit_unconfirmed"


def test_a_claim_that_comes_while_the_doubt_is_given_up_is_kept(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=State.AMBIGUOUS, tries=1)
    clock.advance(AMBIGUOUS_MS + 1)
    provider.script("cancel", lambda attempt: claim(services, attempt.id))
    turn(services)
    assert (states(services, job), job_of(services, job).status) == ([State.CLAIMED], Status.RUNNING)
    beat(services, job.attempt_id)


def test_an_id_that_came_late_ends_the_doubt(
    services: Services, wire: Wire, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job, other = job_factory(), wire()

    def slow(attempt: Attempt) -> Accepted:
        clock.advance(LEASE_MS)
        turn(other)
        return Accepted("told late")

    provider.script("submit", slow)
    turn(services)
    assert states(services, job) == [State.AMBIGUOUS]
    turn(services)
    assert states(services, job) == [State.SUBMITTED], "it waits in the queue there, under its id"
    clock.advance(AMBIGUOUS_MS + 1)
    turn(services)
    assert (states(services, job), job_of(services, job).tries) == ([State.SUBMITTED], 1)


@on_every_database
@pytest.mark.parametrize("told_ms", [None, 2_500])
def test_a_completed_attempt_costs_what_its_machine_costs(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory,
    put_output: PutOutput, told_ms: int | None,
) -> None:  # fmt: skip
    job = job_factory(attempt=State.CLAIMED)
    provider.default["price"] = Price(1_000_000, 300)
    attempt = attempts_of(services, job)[0]
    put_output(attempt.id, BODY)
    assert attempt.claimed_at is not None
    seconds = (clock.now_ms() - attempt.claimed_at) / 1000 if told_ms is None else 2.5
    provider.default["poll"] = replace(COMPLETED, execution_ms=told_ms)
    turn(services)
    after = job_of(services, job)
    assert after.cost_nano == attempts_of(services, job)[0].cost_nano == round(seconds * 1_000_000)
    assert after.stats is not None
    assert after.stats["idle_cost_usd"] == 0.3


def test_a_provider_that_never_began_costs_nothing_of_what_a_free_one_did(
    wire: Wire, job_factory: JobFactory, put_output: PutOutput
) -> None:
    dear, free = FakeProvider("dear"), FakeProvider("free")
    services = wire({"dear": dear, "free": free})
    dear.default["price"] = Price(1_000_000, 300)
    dear.script("submit", Unavailable("no credit"))
    job = job_factory()
    turn(services)
    turn(services)
    attempt = attempts_of(services, job)[-1]
    put_output(attempt.id, BODY)
    claim(services, attempt.id)
    assert COMPLETED.result is not None
    services.jobs.on_event(attempt.id, Event("completed", CLAIM, result=COMPLETED.result))
    after = job_of(services, job)
    assert (after.status, attempt.provider, after.cost_nano) == (Status.COMPLETED, "free", None)


def test_failed_and_cancelled_attempts_cost_too(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    provider.default["price"] = Price(1_000_000)
    job = job_factory(attempt=State.CLAIMED)
    claimed_at = attempts_of(services, job)[0].claimed_at or 0
    clock.advance(3_000)
    services.jobs.cancel(job.id, job.key_id)
    turn(services)
    assert attempts_of(services, job)[0].cost_nano == (clock.now_ms() - claimed_at) * 1_000


@pytest.mark.parametrize(("kind", "cost"), [("submitted", None), ("claimed", 4_000_000)])
def test_what_ran_and_is_given_up_after_a_bug_is_charged_and_counted(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory, kind: str,
    cost: int | None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    provider.default["price"] = Price(1_000_000)
    job = job_factory(attempt=State(kind))
    attempt = attempts_of(services, job)[0]
    clock.advance(attempt.deadline - clock.now_ms() - 3_999)
    if attempt.claimed_at:
        with services.store.transaction() as tx:
            tx.save_attempt(replace(attempt, claimed_at=clock.now_ms(), heard_at=clock.now_ms()))
    clock.advance(4_000)
    ended: list[Attempt] = []
    monkeypatch.setattr(services.metrics, "attempt_ended", ended.append)
    monkeypatch.setattr(module.Step, "run", lambda self: 1 / 0)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.cost_nano) == (Status.FAILED, cost)
    assert [(a.id, a.state, a.cost_nano) for a in ended] == [(attempt.id, State.SUPERSEDED, cost)]


@on_every_database
@pytest.mark.parametrize("way", ["poll", "event", "cancel"])
def test_a_price_is_read_while_no_connection_is_held(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory, way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(services.dispatcher, "_chores", {})  # they have connections of their own
    held: list[int] = []

    def price(_: Attempt) -> Price:
        held.append(services.store._engine.pool.checkedout())  # type: ignore[attr-defined]
        return Price(1_000_000)

    provider.default["price"] = price
    job = job_factory(attempt=State.CLAIMED)
    attempt = attempts_of(services, job)[0]
    clock.advance(2_000)
    if way == "event":
        services.jobs.on_event(attempt.id, Event("failed", CLAIM, error=EncodeFailed()))
    else:
        provider.default["poll"] = Remote(Phase.FAILED, error=EncodeFailed())
        if way == "cancel":
            services.jobs.cancel(job.id, job.key_id)
        turn(services)
    assert held == [0]
    assert attempts_of(services, job)[0].cost_nano == (clock.now_ms() - (attempt.claimed_at or 0)) * 1_000


# What the worker gets


@pytest.fixture
def job_input(services: Services, provider: FakeProvider, job_factory: JobFactory) -> dict[str, Any]:
    job_factory(id="job_01HF7YAT00000000000000000A", timeout_s=77)
    turn(services)
    return json.loads(json.dumps(provider.inputs[0]))


def test_the_worker_gets_the_clients_params_and_nothing_else(job_input: dict[str, Any]) -> None:
    parsed = parse_job_input(job_input)
    assert parsed.operation == "caption"
    assert dict(parsed.params) == {"url_video": "https://example.com/v.mp4", "url_srt": "https://example.com/s.srt"}


def test_the_worker_is_told_where_to_deliver_and_report(
    job_input: dict[str, Any], services: Services, settings: Settings, provider: FakeProvider
) -> None:
    delivery = parse_job_input(job_input).delivery
    (attempt,) = provider.called("submit")
    assert delivery and delivery.upload and delivery.events
    assert (delivery.job_id, delivery.attempt_id) == (attempt.job_id, attempt.id)
    assert delivery.deadline == attempt.deadline == START_MS + 3_600_000 + 77_000 + MARGIN_MS
    assert delivery.limits.timeout_s == 77
    assert delivery.limits.max_output_bytes == delivery.upload.max_bytes == settings.max_output_bytes
    assert delivery.limits.max_asset_bytes == settings.max_asset_bytes
    assert delivery.events.url == f"{settings.worker_base}/events/{attempt.id}"
    assert services.signer.read(EVENTS_PURPOSE, delivery.events.token) == [attempt.id, attempt.deadline]


def test_the_upload_url_is_good_for_this_attempt_until_its_deadline(
    job_input: dict[str, Any], services: Services, clock: FixedClock, provider: FakeProvider
) -> None:
    delivery = parse_job_input(job_input).delivery
    assert delivery and delivery.upload
    (attempt,) = provider.called("submit")
    path, _, signature = delivery.upload.url.partition("?signature=")
    assert path.endswith(f"/files/{attempt.output_key}")
    clock.advance(attempt.deadline - START_MS - 1)
    assert services.storage.allowed("PUT", attempt.output_key, signature) == delivery.upload.max_bytes
    clock.advance(1)
    assert services.storage.allowed("PUT", attempt.output_key, signature) is None


def test_the_worker_gets_no_secret_of_ours(job_input: dict[str, Any], api_key: str) -> None:
    text = json.dumps(job_input)
    assert SECRET_KEY not in text
    assert api_key not in text
    assert "key_" not in text.replace("outputs", "")
