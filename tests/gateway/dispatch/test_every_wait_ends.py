"""Every job ends in time, with the code of the wait that was too long, whatever provider and worker do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
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
from gateway.providers.base import Accepted, Ambiguous, NoCapacity, NotYet, Phase, Refused, Remote, Unavailable
from gateway.storage import StorageUnavailable
from tests.gateway.conftest import RESULT, FakeProvider, FixedClock, Gateway, JobFactory, Wire
from tests.gateway.dispatch.support import COMPLETED, GONE, RUNNING, WAITING
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
# From one look to the next, however it is spread, and from one try to the next.
LOOK_MS, RETRY_MS = MAX_MS + 2_000, 6_000
LIMIT_MS = RUN_S * 1000 + MARGIN_MS
TRY_MS = QUEUE_S * 1000 + LIMIT_MS + LOOK_MS + RETRY_MS
BUG = RuntimeError("a bug")


Worker = Callable[[Gateway, str], None]


def does_nothing(services: Gateway, attempt_id: str) -> None: ...


@dataclass(frozen=True)
class Wait:
    """What would keep a job alive for ever. `worker` is called before every round."""

    code: str
    within_ms: int
    tries: int = MAX_TRIES
    submit: Any = None
    poll: Any = None
    cancel: Any = None
    worker: Worker = does_nothing
    storage: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    message: str | None = None


def claims(services: Gateway, attempt_id: str) -> None:
    with suppress(AttemptSuperseded):
        services.report(attempt_id, "started")


def beats(services: Gateway, attempt_id: str) -> None:
    claims(services, attempt_id)
    with suppress(AttemptSuperseded):
        services.report(attempt_id, "progress", progress=0.5)


def reports_its_end(services: Gateway, attempt_id: str) -> None:
    claims(services, attempt_id)
    with suppress(AttemptSuperseded, StorageUnavailable):
        services.report(attempt_id, "completed", result=RESULT)


def all_tries(ms: int) -> int:
    return MAX_TRIES * (ms + LOOK_MS + RETRY_MS)


DOWN = Unavailable("500")
AWAY = StorageUnavailable("no answer")
QUEUED_MS = QUEUE_S * 1000 + LOOK_MS
NO_EVENTS = {"worker_events": False}
AT_ONCE_MS = all_tries(0)


def failed(error: JobError | None) -> Remote:
    return Remote(Phase.FAILED, error=error)


waits_in_vain = partial(Wait, "queue_timeout", QUEUED_MS, tries=0)
in_doubt = partial(Wait, "submit_unconfirmed", all_tries(AMBIGUOUS_MS), submit=Ambiguous("lost"))
unclaimed = partial(Wait, "claim_timeout", all_tries(UNCLAIMED_MS))
silent = partial(Wait, "worker_lost", all_tries(SILENCE_MS), worker=claims)
endless = partial(Wait, "job_timeout", LIMIT_MS + 2 * LOOK_MS, tries=1)
WAITS = {
    "no worker takes it": waits_in_vain(submit=NotYet("busy", 2.0)),
    "no worker takes it, with an endless pause": waits_in_vain(submit=NotYet("busy", 1e9)),
    "no capacity": waits_in_vain(submit=NoCapacity("full")),
    "provider down": waits_in_vain(submit=DOWN),
    "provider down, with an endless pause": waits_in_vain(submit=Unavailable("500", 1e9)),
    "queued at the provider": waits_in_vain(tries=1, poll=WAITING),
    "never begun there": waits_in_vain(poll=NoCapacity("full")),
    "queued there, without events": waits_in_vain(tries=1, poll=WAITING, settings=NO_EVENTS),
    "in doubt": in_doubt(),
    "in doubt, provider down": in_doubt(poll=DOWN, cancel=DOWN),
    "runs there, never claimed": unclaimed(poll=RUNNING),
    "runs there, never claimed, then waits again": unclaimed(poll=lambda a: WAITING if a.running_at else RUNNING),
    "timed out there, never claimed": Wait("claim_timeout", AT_ONCE_MS, poll=failed(JobTimeout())),
    "ran there, then never began": Wait(
        "worker_lost", AT_ONCE_MS, poll=lambda a: NoCapacity("full") if a.running_at else RUNNING
    ),
    "superseded there, never claimed": Wait("worker_lost", AT_ONCE_MS, poll=failed(Superseded())),
    "forgotten there": Wait("worker_lost", AT_ONCE_MS, poll=GONE),
    "silent": silent(poll=RUNNING),
    "silent, provider down": silent(poll=DOWN, cancel=DOWN),
    "silent, never begun there": silent(poll=NoCapacity("full")),
    "silent, superseded there": silent(poll=failed(Superseded())),
    "silent, a bug in every poll": silent(poll=BUG),
    "runs for ever": endless(poll=RUNNING, worker=beats),
    "runs for ever, queued there": endless(poll=WAITING, worker=beats),
    "runs for ever, provider down": endless(poll=DOWN, cancel=DOWN, worker=beats),
    "runs for ever, without events": endless(poll=RUNNING, settings=NO_EVENTS),
    "reports its end for ever, no storage": endless(poll=RUNNING, storage=AWAY, worker=reports_its_end),
    "reports an end, nothing stored": Wait("output_missing", AT_ONCE_MS, poll=RUNNING, worker=reports_its_end),
    "completed there, nothing stored": Wait("output_missing", AT_ONCE_MS, poll=COMPLETED),
    "completed there, no storage": Wait("storage_unreachable", MAX_TRIES * TRY_MS, poll=COMPLETED, storage=AWAY),
    "reports its end, no storage": Wait(
        "storage_unreachable", all_tries(LIMIT_MS), poll=COMPLETED, storage=AWAY, worker=reports_its_end
    ),
    "completed there, without a result": Wait("output_missing", AT_ONCE_MS, poll=Remote(Phase.COMPLETED)),
    "failed there, without an error": Wait("worker_error", AT_ONCE_MS, poll=failed(None)),
    "fails there": Wait("encode_failed", AT_ONCE_MS, poll=failed(EncodeFailed())),
    "every worker is outdated": Wait("worker_outdated", AT_ONCE_MS, poll=failed(WorkerOutdated())),
    "taken there, provider down": Wait("provider_unreachable", MAX_TRIES * TRY_MS, poll=DOWN, cancel=DOWN),
    "a bug in every submit": Wait("submit_unconfirmed", all_tries(AMBIGUOUS_MS + LEASE_MS), submit=BUG),
    "a bug in every poll": Wait("provider_unreachable", MAX_TRIES * TRY_MS, poll=BUG),
    "a bug in every poll and cancel": Wait("provider_unreachable", MAX_TRIES * TRY_MS, poll=BUG, cancel=BUG),
    "a bug of the gateway": Wait("gateway_error", TRY_MS + LEASE_MS, 1, poll=COMPLETED, storage=BUG),
}
# Faults of the job are not tried again.
FAULTS = {
    "refused": Wait("invalid_params", RETRY_MS, 0, submit=Refused(InvalidParams("too long")), message="too long"),
    "no asset": Wait("asset_not_found", AT_ONCE_MS, 1, poll=failed(AssetNotFound("404")), message="404"),
    "timed out there, claimed": Wait("job_timeout", AT_ONCE_MS, 1, poll=failed(JobTimeout()), worker=claims),
}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and many small commits need not wait for the disk."""

    def make(*args: Any, **kwargs: Any) -> sa.Engine:
        engine = make_engine(*args, **kwargs)
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        return engine

    monkeypatch.setattr(wiring, "make_engine", make)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log nothing: a thousand rounds would fill the report."""
    with structlog.testing.capture_logs():
        yield


def _raising(error: Exception) -> Callable[[str], Any]:
    def stat(key: str) -> Any:
        raise error

    return stat


def live(services: Gateway, job: Job, within_ms: int, worker: Worker = does_nothing) -> None:
    """Take a round whenever the job is due, and every 10 s, until no dispatcher looks at it any more."""
    clock = services.clock
    began = clock.now_ms()
    while (now := services.job(job)).next_at is not None:
        assert clock.now_ms() - began <= within_ms, (
            f"still {now.status} after {(clock.now_ms() - began) / 1000} s: {now}"
        )
        if now.attempt_id and (attempt := services.store.attempt(now.attempt_id)) and attempt.sent_at:
            worker(services, now.attempt_id)
        services.turn()
        next_at = services.job(job).next_at or 0
        clock.advance(max(1, min(next_at - clock.now_ms(), 10_000)))


@pytest.mark.parametrize("wait", [pytest.param(wait, id=name) for name, wait in (WAITS | FAULTS).items()])
def test_it_ends_in_time_with_its_code(wait: Wait, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    providers = {name: FakeProvider(name) for name in ("one", "two")}
    for provider in providers.values():
        provider.default |= {name: getattr(wait, name) for name in ("submit", "poll", "cancel") if getattr(wait, name)}
    services = wire(providers, **wait.settings)
    if wait.storage is not None:
        monkeypatch.setattr(services.storage, "size", _raising(wait.storage))
    job = services.add_job(queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    live(services, job, wait.within_ms, wait.worker)
    after = services.job(job)
    assert (after.status, after.error_code, after.tries) == (JobStatus.FAILED, wait.code, wait.tries)
    assert after.error_message == wait.message if wait.message else after.error_message
    attempts = services.store.attempts(job.id)
    assert all(attempt.ended for attempt in attempts)
    if wait.poll is RUNNING and wait.code != "output_missing":
        cancelled = {attempt.id for provider in providers.values() for attempt in provider.called("cancel")}
        assert cancelled >= {attempt.id for attempt in attempts}
    assert issubclass(CODES[wait.code], JobError)


def test_each_kind_of_wait_has_a_code_of_its_own() -> None:
    ends = {wait.code for wait in WAITS.values()}
    faults = {code for code in ends if issubclass(CODES[code], JobFault)}
    assert faults == {"queue_timeout", "job_timeout"}, "another provider would not help"
    assert {GatewayError.code, WorkerLost.code} < ends


@pytest.mark.parametrize("answer", [Unavailable("500"), BUG], ids=["unavailable", "a bug"])
@pytest.mark.parametrize(
    "state", [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.AMBIGUOUS]
)
def test_a_cancelled_job_that_cannot_be_taken_back_ends(services: Gateway, state: AttemptState, answer: Any) -> None:
    services.provider.default["cancel"] = answer
    job = services.add_job(attempt=state, queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    services.jobs.cancel(job.id, job.key_id)
    live(services, job, TRY_MS)
    [attempt] = services.store.attempts(job.id)
    assert (services.job(job).status, attempt.state) == (JobStatus.CANCELLED, AttemptState.SUPERSEDED)


def test_a_bug_in_cleaning_up_a_cancelled_job_delays_its_end_and_no_more(
    services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_writer, "_charge", lambda *_: (_ for _ in ()).throw(BUG))
    job = services.add_job(attempt=AttemptState.SUBMITTED, queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    services.jobs.cancel(job.id, job.key_id)
    live(services, job, TRY_MS + LEASE_MS)
    assert services.job(job).status is JobStatus.CANCELLED


def test_a_job_that_is_long_past_its_time_ends_at_once(services: Gateway) -> None:
    job = services.add_job(queue_limit_s=QUEUE_S)
    services.clock.advance(10 * QUEUE_S * 1000)
    live(services, job, LOOK_MS)
    assert services.job(job).error_code == "queue_timeout"


@pytest.mark.parametrize("state", [AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.AMBIGUOUS])
def test_what_has_completed_there_while_every_gateway_was_away_is_taken(services: Gateway, state: AttemptState) -> None:
    job = services.add_job(attempt=state, tries=1, queue_limit_s=QUEUE_S, timeout_s=RUN_S)
    services.put_output(job.attempt_id)
    services.provider.default["poll"] = COMPLETED
    services.clock.advance(10 * TRY_MS)
    services.turn()
    assert services.job(job).status is JobStatus.COMPLETED


def test_an_outage_of_the_storage_costs_no_finished_work(services: Gateway, monkeypatch: Any) -> None:
    services.provider.default["poll"] = COMPLETED
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1, timeout_s=RUN_S)
    with monkeypatch.context() as patch:
        patch.setattr(services.storage, "size", _raising(AWAY))
        for _ in range(4 * SILENCE_MS // 5_000):  # the worker has gone, and what it made is there
            services.turn()
            services.clock.advance(5_000)
    services.put_output(job.attempt_id)
    live(services, job, LOOK_MS)
    assert (services.job(job).status, services.job(job).tries) == (JobStatus.COMPLETED, 1)


def test_a_worker_that_repeats_its_report_to_a_gateway_without_storage_is_not_silent(
    services: Gateway, monkeypatch: Any
) -> None:
    services.provider.default["poll"] = RUNNING
    services.dispatcher.tick()
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1, timeout_s=RUN_S)
    monkeypatch.setattr(services.storage, "size", _raising(AWAY))
    for _ in range(2 * SILENCE_MS // 5_000):
        with pytest.raises(StorageUnavailable):
            services.report(job.attempt_id, "completed", result=RESULT)
        services.clock.advance(5_000)
        services.turn()
    assert services.job(job).status is JobStatus.RUNNING


def test_dispatchers_that_restart_all_the_time_still_find_a_dead_claim(
    wire: Wire, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    provider.default["poll"] = RUNNING
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    for _ in range(12):
        fresh = wire()
        for _ in range(2):
            fresh.turn()
            clock.advance(2_000)
    attempts = {attempt.id: attempt for attempt in fresh.store.attempts(job.id)}
    assert attempts[job.attempt_id].error_code == "worker_lost"


def test_time_without_a_database_does_not_count_as_silence(services: Gateway) -> None:
    services.provider.default["poll"] = RUNNING
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    services.turn()
    services.dispatcher._failed(OperationalError("BEGIN", {}, Exception("database is locked")), 1)
    services.clock.advance(2 * SILENCE_MS)
    services.turn()
    assert services.job(job).status is JobStatus.RUNNING


# Random answers


def _answers(rng: random.Random) -> dict[str, Callable[[Attempt], Any]]:
    errors = (WorkerError(), EncodeFailed(), Superseded(), WorkerOutdated(), JobTimeout())

    def submit(attempt: Attempt) -> Any:
        return rng.choice(
            [Accepted(f"r{rng.random()}"), NotYet("busy", rng.choice([0.0, 2.0, 1e6])), NoCapacity("full"),
             Unavailable("500", rng.choice([None, 0.0, 3.0, 1e6])), Ambiguous("lost"), BUG]
        )  # fmt: skip

    def poll(attempt: Attempt) -> Any:
        return rng.choice(
            [WAITING, RUNNING, COMPLETED, Remote(Phase.COMPLETED), failed(rng.choice(errors)),
             failed(None), GONE, DOWN, NoCapacity("full"), BUG, WAITING, RUNNING, WAITING, RUNNING, RUNNING]
        )  # fmt: skip

    return {"submit": submit, "poll": poll, "cancel": lambda attempt: rng.choice([None, DOWN, BUG])}


@pytest.mark.parametrize("events", [True, False], ids=["events", "no events"])
@pytest.mark.parametrize("seed", range(12))
def test_with_answers_at_random_every_job_still_ends(
    seed: int, events: bool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    services = wire({name: FakeProvider(name) for name in ("one", "two")}, worker_events=events)
    for provider in services.providers.values():
        provider.default |= _answers(rng)

    def stat(key: str) -> None:
        if rng.random() < 0.8:
            raise rng.choice([AWAY, BUG])

    monkeypatch.setattr(services.storage, "size", stat)
    job = services.add_job(queue_limit_s=QUEUE_S, timeout_s=RUN_S)

    def worker(services: Gateway, attempt_id: str) -> None:
        does = rng.choice([does_nothing, does_nothing, claims, beats, reports_its_end])
        if events:
            with suppress(RuntimeError):
                does(services, attempt_id)

    live(services, job, MAX_TRIES * TRY_MS + LEASE_MS, worker)
    after = services.job(job)
    assert after.status is JobStatus.FAILED
    assert after.error_code in CODES and issubclass(CODES[after.error_code], JobError)
    unsent = {NoCapacity.code, Unavailable.code}
    may_have_run = [a for a in services.store.attempts(job.id) if a.sent_at and a.error_code not in unsent]
    assert after.tries <= MAX_TRIES and len(may_have_run) <= MAX_TRIES
