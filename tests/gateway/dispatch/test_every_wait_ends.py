"""Whatever somebody does to keep a job alive, it ends: in time, and with the code of the wait that was too long."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import OperationalError

from gateway import wiring
from gateway.db.engine import make_engine
from gateway.dispatch import attempt_writer
from gateway.dispatch.limits import AMBIGUOUS_MS, SILENCE_MS, UNCLAIMED_MS
from gateway.dispatch.loop import LEASE_MS
from gateway.dispatch.poll_schedule import MAX_MS
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import MARGIN_MS, Job, JobStatus
from gateway.domain.transitions import MAX_TRIES
from gateway.errors import AttemptSuperseded
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
from gateway.storage import StorageUnavailable
from gateway.wiring import Services
from tests.gateway.conftest import CLAIM, FakeProvider, FixedClock, JobFactory, Wire
from tests.outputs import video_key
from wire.envelope import Event
from wire.errors import (
    CODES,
    AssetNotFound,
    EncodeFailed,
    GatewayError,
    InvalidParams,
    JobError,
    JobFault,
    JobTimeout,
    Superseded,
    WorkerError,
    WorkerLost,
    WorkerOutdated,
)

QUEUE_S, RUN_S = 120, 30
SIZE = 5
RESULT = {"outputs": {"video": {"size_bytes": SIZE}}, "stats": {"size_bytes": SIZE, "duration_s": 2.0}}
COMPLETED = Remote(Phase.COMPLETED, result=RESULT)
# From one look to the next, however it is spread, and from one try to the next.
LOOK_MS, RETRY_MS = MAX_MS + 2_000, 6_000
LIMIT_MS = RUN_S * 1000 + MARGIN_MS
TRY_MS = QUEUE_S * 1000 + LIMIT_MS + LOOK_MS + RETRY_MS
BUG = RuntimeError("a bug")


@dataclass(frozen=True)
class Wait:
    """Answers that would keep a job alive for ever. `worker` is called before every look."""

    code: str
    within_ms: int
    tries: int = MAX_TRIES
    submit: Any = None
    poll: Any = None
    cancel: Any = None
    worker: Callable[[Services, str], None] = lambda services, attempt_id: None
    storage: Any = None
    settings: dict[str, Any] = field(default_factory=dict)


def claims(services: Services, attempt_id: str) -> None:
    with suppress(AttemptSuperseded):
        services.reports.take(attempt_id, Event("started", CLAIM))


def beats(services: Services, attempt_id: str) -> None:
    claims(services, attempt_id)
    with suppress(AttemptSuperseded):
        services.reports.take(attempt_id, Event("progress", CLAIM, progress=0.5))


def reports_its_end(services: Services, attempt_id: str) -> None:
    claims(services, attempt_id)
    with suppress(AttemptSuperseded, StorageUnavailable):
        services.reports.take(attempt_id, Event("completed", CLAIM, result=RESULT))


def all_tries(ms: int) -> int:
    return MAX_TRIES * (ms + LOOK_MS + RETRY_MS)


RUNNING, WAITING = Remote(Phase.RUNNING, progress=0.5), Remote(Phase.WAITING, reason="no GPU is free")
DOWN, GONE = Unavailable("500"), Remote(Phase.GONE)
SUPERSEDED = Remote(Phase.FAILED, error=Superseded())
QUEUED_MS = QUEUE_S * 1000 + LOOK_MS
NO_EVENTS = {"worker_events": False}
WAITS = {
    "no worker takes it": Wait("queue_timeout", QUEUED_MS, 0, submit=NotYet("busy", 2.0)),
    "no worker takes it, says one that never wants to be asked": Wait(
        "queue_timeout", QUEUED_MS, 0, submit=NotYet("busy", 1e9)
    ),
    "no capacity": Wait("queue_timeout", QUEUED_MS, 0, submit=NoCapacity("full")),
    "provider out of order": Wait("queue_timeout", QUEUED_MS, 0, submit=DOWN),
    "provider out of order, says it, for years": Wait("queue_timeout", QUEUED_MS, 0, submit=Unavailable("500", 1e9)),
    "queued at the provider": Wait("queue_timeout", QUEUED_MS, 1, poll=WAITING),
    "never begun there, over and over": Wait("queue_timeout", QUEUED_MS, 0, poll=NoCapacity("full")),
    "queued there, without events": Wait("queue_timeout", QUEUED_MS, 1, poll=WAITING, settings=NO_EVENTS),
    "ambiguous": Wait("submit_unconfirmed", all_tries(AMBIGUOUS_MS), submit=Ambiguous("lost")),
    "ambiguous, and nobody can be asked": Wait(
        "submit_unconfirmed", all_tries(AMBIGUOUS_MS), submit=Ambiguous("lost"), poll=DOWN, cancel=DOWN
    ),
    "runs there, never claimed": Wait("claim_timeout", all_tries(UNCLAIMED_MS), poll=RUNNING),
    "runs there, never claimed, then waits again": Wait(
        "claim_timeout", all_tries(UNCLAIMED_MS), poll=lambda attempt: WAITING if attempt.running_at else RUNNING
    ),
    "ran there, and is said never to have begun": Wait(
        "worker_lost", all_tries(0), poll=lambda attempt: NoCapacity("full") if attempt.running_at else RUNNING
    ),
    "ended there by its time, never claimed": Wait(
        "claim_timeout", all_tries(0), poll=Remote(Phase.FAILED, error=JobTimeout())
    ),
    "runs for ever, without events": Wait("job_timeout", LIMIT_MS + 2 * LOOK_MS, 1, poll=RUNNING, settings=NO_EVENTS),
    "claimed and silent": Wait("worker_lost", all_tries(SILENCE_MS), poll=RUNNING, worker=claims),
    "claimed and silent, and nobody can be asked": Wait(
        "worker_lost", all_tries(SILENCE_MS), poll=DOWN, cancel=DOWN, worker=claims
    ),
    "claimed and silent, said never to have begun": Wait(
        "worker_lost", all_tries(SILENCE_MS), poll=NoCapacity("full"), worker=claims
    ),
    "claimed and silent, superseded there": Wait("worker_lost", all_tries(SILENCE_MS), poll=SUPERSEDED, worker=claims),
    "claimed and runs for ever": Wait("job_timeout", LIMIT_MS + 2 * LOOK_MS, 1, poll=RUNNING, worker=beats),
    "claimed and runs for ever, queued by the provider's word": Wait(
        "job_timeout", LIMIT_MS + 2 * LOOK_MS, 1, poll=WAITING, worker=beats
    ),
    "claimed, runs for ever, nobody can be asked or told": Wait(
        "job_timeout", LIMIT_MS + 2 * LOOK_MS, 1, poll=DOWN, cancel=DOWN, worker=beats
    ),
    "reports an end that is not there": Wait("output_missing", all_tries(0), poll=RUNNING, worker=reports_its_end),
    "completed there, nothing stored": Wait("output_missing", all_tries(0), poll=COMPLETED),
    "completed there, storage away": Wait(
        "storage_unreachable", MAX_TRIES * TRY_MS, poll=COMPLETED, storage=StorageUnavailable("no answer")
    ),
    "reports its end, storage away": Wait(
        "storage_unreachable",
        all_tries(LIMIT_MS),
        poll=COMPLETED,
        storage=StorageUnavailable("no answer"),
        worker=reports_its_end,
    ),
    "reports its end for ever, storage away": Wait(
        "job_timeout",
        LIMIT_MS + 2 * LOOK_MS,
        1,
        poll=RUNNING,
        storage=StorageUnavailable("no answer"),
        worker=reports_its_end,
    ),
    "taken there, and nobody can be asked": Wait("provider_unreachable", MAX_TRIES * TRY_MS, poll=DOWN, cancel=DOWN),
    "forgotten there": Wait("worker_lost", all_tries(0), poll=GONE),
    "fails there": Wait("encode_failed", all_tries(0), poll=Remote(Phase.FAILED, error=EncodeFailed())),
    "an outdated worker everywhere": Wait(
        "worker_outdated", all_tries(0), poll=Remote(Phase.FAILED, error=WorkerOutdated())
    ),
    "a bug in every submit": Wait("submit_unconfirmed", all_tries(AMBIGUOUS_MS + LEASE_MS), submit=BUG),
    "a bug in every poll": Wait("provider_unreachable", MAX_TRIES * TRY_MS, poll=BUG),
    "a bug in every poll of a silent claim": Wait("worker_lost", all_tries(SILENCE_MS), poll=BUG, worker=claims),
    "bugs in every poll and cancel": Wait("provider_unreachable", MAX_TRIES * TRY_MS, poll=BUG, cancel=BUG),
    "a bug of our own": Wait("gateway_error", TRY_MS + LEASE_MS, 1, poll=COMPLETED, storage=BUG),
}
# Of the job itself, or refused: one try and no second.
FAULTS = {
    "refused": Wait("invalid_params", RETRY_MS, 0, submit=Refused(InvalidParams())),
    "its own fault": Wait("asset_not_found", all_tries(0), 1, poll=Remote(Phase.FAILED, error=AssetNotFound())),
}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here, and many small commits need not wait for the disk."""

    def make(*args: Any, **kwargs: Any) -> sa.Engine:
        engine = make_engine(*args, **kwargs)
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        return engine

    monkeypatch.setattr(wiring, "make_engine", make)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def chain() -> dict[str, FakeProvider]:
    return {name: FakeProvider(name) for name in ("one", "two")}


@pytest.fixture
def make(
    wire: Wire, chain: dict[str, FakeProvider], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Wait], Services]]:
    """A gateway in which both providers, the storage and the worker behave as a Wait says."""

    def wired(wait: Wait) -> Services:
        for fake in chain.values():
            for method in ("submit", "poll", "cancel"):
                if (answer := getattr(wait, method)) is not None:
                    fake.default[method] = answer
        services = wire(chain, **wait.settings)
        if wait.storage is not None:
            monkeypatch.setattr(services.storage, "size", _raising(wait.storage))
        return services

    yield wired


def _raising(error: Exception) -> Callable[[str], Any]:
    def stat(key: str) -> Any:
        raise error

    return stat


def now_of(services: Services, job: Job) -> Job:
    found = services.store.job(job.id)
    assert found is not None
    return found


def live(services: Services, clock: FixedClock, job: Job, worker: Callable[[Services, str], None], most_ms: int) -> int:
    """Look whenever it is due, and not seldom in between, until nobody looks any more; answers how long that took."""
    began = clock.now_ms()
    while (now := now_of(services, job)).next_at is not None:
        assert clock.now_ms() - began <= most_ms, f"still {now.status} after {(clock.now_ms() - began) / 1000} s: {now}"
        if now.attempt_id and (attempt := services.store.attempt(now.attempt_id)) and attempt.sent_at:
            worker(services, now.attempt_id)
        services.dispatcher.tick()
        services.dispatcher.settle()
        next_at = now_of(services, job).next_at or 0
        clock.advance(max(1, min(next_at - clock.now_ms(), 10_000)))
    return clock.now_ms() - began


def may_have_run(services: Services, job: Job) -> int:
    """Attempts that a provider took, or perhaps took, by what is kept of them."""
    unsent = {NoCapacity.code, Unavailable.code}
    return sum(a.sent_at is not None and a.error_code not in unsent for a in services.store.attempts(job.id))


@pytest.mark.parametrize("wait", [pytest.param(wait, id=name) for name, wait in (WAITS | FAULTS).items()])
def test_it_ends_in_time_with_its_code(
    wait: Wait, make: Callable[[Wait], Services], job_factory: JobFactory, clock: FixedClock
) -> None:
    services = make(wait)
    job = job_factory(queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    live(services, clock, job, wait.worker, wait.within_ms)
    after = now_of(services, job)
    assert (after.status, after.error_code, after.tries) == (JobStatus.FAILED, wait.code, wait.tries)
    assert after.error_message
    assert all(attempt.ended for attempt in services.store.attempts(job.id))
    assert issubclass(CODES[wait.code], JobError)


def test_each_kind_of_wait_has_a_code_of_its_own() -> None:
    ends = {wait.code for wait in WAITS.values()}
    faults = {code for code in ends if issubclass(CODES[code], JobFault)}
    assert faults == {"queue_timeout", "job_timeout"}, "what nobody else can help is tried once"
    assert {GatewayError.code, WorkerLost.code} < ends


@pytest.mark.parametrize("answer", [Unavailable("500"), BUG], ids=["unavailable", "a bug"])
@pytest.mark.parametrize(
    "state", [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.AMBIGUOUS]
)
def test_a_cancelled_job_that_nobody_can_take_back_is_let_go(
    services: Services,
    provider: FakeProvider,
    job_factory: JobFactory,
    clock: FixedClock,
    state: AttemptState,
    answer: Any,
) -> None:
    provider.default["cancel"] = answer
    job = job_factory(attempt=state, queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    services.jobs.cancel(job.id, job.key_id)
    live(services, clock, job, lambda *_: None, TRY_MS)
    [attempt] = services.store.attempts(job.id)
    assert (now_of(services, job).status, attempt.state) == (JobStatus.CANCELLED, AttemptState.SUPERSEDED)


def test_a_bug_in_cleaning_up_a_cancelled_job_is_let_go(
    services: Services, job_factory: JobFactory, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_writer, "_charge", lambda *_: (_ for _ in ()).throw(BUG))
    job = job_factory(attempt=AttemptState.SUBMITTED, queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    services.jobs.cancel(job.id, job.key_id)
    live(services, clock, job, lambda *_: None, TRY_MS + LEASE_MS)
    assert now_of(services, job).status is JobStatus.CANCELLED


def test_a_job_that_nobody_looked_at_until_long_after_its_time_ends_at_once(
    services: Services, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(queue_limit_s=QUEUE_S)
    clock.advance(10 * QUEUE_S * 1000)
    live(services, clock, job, lambda *_: None, LOOK_MS)
    assert now_of(services, job).error_code == "queue_timeout"


@pytest.mark.parametrize("state", [AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.AMBIGUOUS])
def test_what_has_completed_there_while_every_gateway_was_away_is_taken(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock, state: AttemptState
) -> None:
    job = job_factory(attempt=state, tries=1, queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    attempt = services.store.attempt(job.attempt_id or "")
    assert attempt is not None
    services.storage.write(video_key(attempt), [b"x" * SIZE], SIZE)
    provider.default["poll"] = COMPLETED
    clock.advance(10 * TRY_MS)
    services.dispatcher.tick()
    services.dispatcher.settle()
    assert now_of(services, job).status is JobStatus.COMPLETED


def test_an_outage_of_the_storage_costs_no_finished_work(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock, monkeypatch: Any
) -> None:
    provider.default["poll"] = COMPLETED
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1, timeout_s=RUN_S)
    attempt = services.store.attempt(job.attempt_id or "")
    assert attempt is not None
    with monkeypatch.context() as patch:
        patch.setattr(services.storage, "size", _raising(StorageUnavailable("no answer")))
        for _ in range(4 * SILENCE_MS // 5_000):  # the worker has gone, and what it made is there
            services.dispatcher.tick()
            services.dispatcher.settle()
            clock.advance(5_000)
    services.storage.write(video_key(attempt), [b"x" * SIZE], SIZE)
    live(services, clock, job, lambda *_: None, LOOK_MS)
    assert (now_of(services, job).status, now_of(services, job).tries) == (JobStatus.COMPLETED, 1)


def test_a_worker_that_repeats_its_report_to_a_gateway_without_storage_is_not_silent(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock, monkeypatch: Any
) -> None:
    provider.default["poll"] = RUNNING
    services.dispatcher.tick()
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1, timeout_s=RUN_S)
    monkeypatch.setattr(services.storage, "size", _raising(StorageUnavailable("no answer")))
    for _ in range(2 * SILENCE_MS // 5_000):
        with pytest.raises(StorageUnavailable):
            services.reports.take(job.attempt_id or "", Event("completed", CLAIM, result=RESULT))
        clock.advance(5_000)
        services.dispatcher.tick()
        services.dispatcher.settle()
    assert now_of(services, job).status is JobStatus.RUNNING


def test_dispatchers_that_restart_all_the_time_still_find_a_dead_claim(
    wire: Wire, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    provider.default["poll"] = RUNNING
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    for _ in range(12):
        fresh = wire()
        for _ in range(2):
            fresh.dispatcher.tick()
            fresh.dispatcher.settle()
            clock.advance(2_000)
    attempts = {attempt.id: attempt for attempt in fresh.store.attempts(job.id)}
    assert attempts[job.attempt_id or ""].error_code == "worker_lost"


def test_who_could_not_write_to_the_database_does_not_count_that_time_as_silence(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    provider.default["poll"] = RUNNING
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    dispatcher = services.dispatcher
    dispatcher.tick()
    dispatcher.settle()
    dispatcher._failed(OperationalError("BEGIN", {}, Exception("database is locked")), 1)
    clock.advance(2 * SILENCE_MS)
    dispatcher.tick()
    dispatcher.settle()
    assert now_of(services, job).status is JobStatus.RUNNING


# Anything at random, for ever


def _answers(rng: random.Random) -> dict[str, Callable[[Attempt], Any]]:
    errors = (WorkerError(), EncodeFailed(), Superseded(), WorkerOutdated(), JobTimeout())

    def submit(attempt: Attempt) -> Any:
        return rng.choice(
            [Accepted(f"r{rng.random()}"), NotYet("busy", rng.choice([0.0, 2.0, 1e6])), NoCapacity("full"),
             Unavailable("500", rng.choice([None, 0.0, 3.0, 1e6])), Ambiguous("lost"), BUG]
        )  # fmt: skip

    def poll(attempt: Attempt) -> Any:
        return rng.choice(
            [WAITING, RUNNING, COMPLETED, Remote(Phase.COMPLETED), Remote(Phase.FAILED, error=rng.choice(errors)),
             Remote(Phase.FAILED), GONE, DOWN, NoCapacity("full"), BUG, WAITING, RUNNING, WAITING, RUNNING, RUNNING]
        )  # fmt: skip

    return {"submit": submit, "poll": poll, "cancel": lambda attempt: rng.choice([None, DOWN, BUG])}


@pytest.mark.parametrize("events", [True, False], ids=["events", "no events"])
@pytest.mark.parametrize("seed", range(12))
def test_with_answers_at_random_every_job_still_ends(
    seed: int, events: bool, wire: Wire, chain: dict[str, FakeProvider], job_factory: JobFactory, clock: FixedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rng = random.Random(seed)
    for fake in chain.values():
        fake.default |= _answers(rng)
    services = wire(chain, worker_events=events)
    monkeypatch.setattr(
        services.storage, "size", lambda key: _raising(rng.choice([StorageUnavailable("no"), BUG]))(key)
        if rng.random() < 0.8 else None,
    )  # fmt: skip
    job = job_factory(queue_limit_s=QUEUE_S, timeout_s=RUN_S)

    def worker(services: Services, attempt_id: str) -> None:
        does = rng.choice([None, None, claims, beats, reports_its_end])
        if events and does is not None:
            with suppress(RuntimeError):
                does(services, attempt_id)

    live(services, clock, job, worker, MAX_TRIES * TRY_MS + LEASE_MS)
    after = now_of(services, job)
    assert after.status is JobStatus.FAILED
    assert after.error_code in CODES and issubclass(CODES[after.error_code], JobError)
    assert after.tries <= MAX_TRIES and may_have_run(services, job) <= MAX_TRIES
