"""Limits of unfinished jobs and spending per key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal

import pytest
import sqlalchemy as sa

from gateway.access.quotas import ALLOWANCE_MS, ALLOWANCE_SHARE, GATEWAYS, MARGIN
from gateway.api import job_request
from gateway.db.records import Usage
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.prices import Price
from gateway.errors import RequestError, SpendingLimit, TooManyBytes, TooManyJobs
from tests.gateway.conftest import FakeProvider, Gateway, Wire, on_every_database, together
from tests.servers import eventually
from wire.errors import AssetNotFound, EncodeFailed

REQUEST = job_request.read("img2vid", b'{"url_image": "https://example.com/i.jpg"}')
DAY_MS = 86_400_000
DOLLAR = 1_000_000_000


@pytest.fixture
def provider(provider: FakeProvider) -> FakeProvider:
    """Its machines cost a dollar a second."""
    provider.default["price"] = Price(DOLLAR)
    return provider


def create(services: Gateway, key_id: str, idempotency_key: str | None = None) -> Job:
    return services.jobs.create(key_id, REQUEST, idempotency_key)


def refused(services: Gateway, key_id: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        create(services, key_id)
    return caught.value


def key_of(services: Gateway, name: str = "n8n") -> str:
    return services.keys.create(name)[0].id


def limited(wire: Wire, jobs: int = 0, usd: str = "0", params_bytes: int = 0) -> Gateway:
    return wire(max_jobs_per_key=jobs, daily_spending_limit_usd=Decimal(usd), max_params_bytes_per_key=params_bytes)


def run(services: Gateway, job: Job, seconds: int, error: Exception | None = None) -> None:
    """A worker has the job for `seconds`, which cost as many dollars, and then it fails."""
    attempt_id = services.attempt(job).id
    services.report(attempt_id, "started")
    services.clock.advance(seconds * 1000)
    services.report(attempt_id, "failed", error=error or AssetNotFound())


def create_and_run(services: Gateway, key_id: str, seconds: int, error: Exception | None = None) -> Job:
    job = create(services, key_id)
    services.turn()
    run(services, job, seconds, error)
    return job


def statements(services: Gateway) -> list[str]:
    """The SQL statements from now on."""
    seen: list[str] = []
    engine = services.store._engine
    sa.event.listen(engine, "before_cursor_execute", lambda *event: seen.append(event[2]))
    return seen


def create_at_once(gateways: list[Gateway], key_id: str, threads: int = 50) -> list[Job | RequestError]:
    """The job or the error that each of that many threads gets."""

    def one(number: int) -> Job | RequestError:
        try:
            return create(gateways[number % len(gateways)], key_id)
        except RequestError as error:
            return error

    return together(threads, one)


@on_every_database
def test_fifty_threads_create_no_more_jobs_than_allowed(wire: Wire) -> None:
    services, other = limited(wire, jobs=20), limited(wire, jobs=20)
    key_id = key_of(services)
    answers = create_at_once([services, other], key_id)
    assert [type(answer) for answer in answers].count(Job) == 20
    assert [type(answer) for answer in answers].count(TooManyJobs) == 30
    with services.store.transaction() as tx:
        assert tx.usage(key_id, 0).unfinished == 20
    assert isinstance(create(services, key_of(services)), Job), "another key has its own"


def test_jobs_in_one_commit_are_counted_together_and_limited_per_key(wire: Wire) -> None:
    services = limited(wire, jobs=3)
    one, two = key_of(services, "one"), key_of(services, "two")
    seen = statements(services)
    with ThreadPoolExecutor(12) as pool:
        with services.store.transaction():  # they all wait for it and are committed as one
            made = [pool.submit(create, services, key_id) for key_id in [one] * 10 + [two] * 2]
            eventually(lambda: len(services.store._writers._arrived) == 12)
        errors = [future.exception(10) for future in made]
    assert [type(error) for error in errors].count(TooManyJobs) == 7
    assert not any(errors[10:])
    assert {key_id: services.store.usage(key_id, 0).unfinished for key_id in (one, two)} == {one: 3, two: 2}
    inserts = [statement for statement in seen if statement.startswith("INSERT INTO jobs")]
    counts = [statement for statement in seen if "count(*)" in statement]
    assert (len(inserts), len(counts)) == (1, 2 + 2), "one count for each key, and two by this test"


def test_a_key_far_from_its_limits_is_rarely_counted(wire: Wire) -> None:
    services = limited(wire, jobs=MARGIN + 300, usd="50")
    key_id = key_of(services)
    seen = statements(services)

    def counts() -> int:
        return sum("count(*)" in statement for statement in seen)

    for _ in range(100):
        create(services, key_id)
    assert counts() == 1
    services.clock.advance(ALLOWANCE_MS)
    for _ in range(199):
        create(services, key_id)
    assert counts() == 2
    services.clock.advance(ALLOWANCE_MS)
    create(services, key_id)
    create(services, key_id)
    assert counts() > 3, "near the limit each one is counted"


@on_every_database
def test_every_ended_job_makes_room(wire: Wire) -> None:
    services = limited(wire, jobs=2)
    key_id = key_of(services)
    one, two = create(services, key_id), create(services, key_id)
    error = refused(services, key_id)
    assert (error.code, error.retry_after_s) == ("too_many_jobs", 10)
    services.jobs.cancel(one.id, key_id)
    create(services, key_id)
    services.turn()
    assert refused(services, key_id).code == "too_many_jobs"
    run(services, two, 1)
    create(services, key_id)


def test_a_repeated_request_needs_no_quota_and_a_refused_one_leaves_no_idempotency_key(wire: Wire) -> None:
    services = limited(wire, jobs=1, usd="1")
    key_id = key_of(services)
    job = create(services, key_id, "again")
    with pytest.raises(TooManyJobs):
        create(services, key_id, "mine")
    assert create(services, key_id, "again") == job
    services.jobs.cancel(job.id, key_id)
    assert create(services, key_id, "mine").status is JobStatus.QUEUED


@on_every_database
def test_a_key_that_has_spent_its_day_gets_402_until_midnight(wire: Wire) -> None:
    services = limited(wire, usd="3")
    key_id, other = key_of(services), key_of(services, "other")
    for _ in range(3):
        create_and_run(services, key_id, 1)
    assert services.store.usage(key_id, services.clock.now_ms()) == Usage(0, 0, 3 * DOLLAR, DOLLAR)
    error = refused(services, key_id)
    left_ms = DAY_MS - services.clock.now_ms() % DAY_MS
    assert (error.code, error.retry_after_s) == ("spending_limit", left_ms // 1000 + 1)
    create(services, other)
    services.clock.advance(left_ms - 1)
    assert refused(services, key_id).code == "spending_limit"
    services.clock.advance(1)
    create(services, key_id)


@on_every_database
def test_unfinished_jobs_count_with_the_mean_cost(wire: Wire) -> None:
    services = limited(wire, usd="10")
    key_id = key_of(services)
    for _ in range(2):
        job = create_and_run(services, key_id, 1)
    answers = create_at_once([services], key_id)
    made = [answer for answer in answers if isinstance(answer, Job)]
    assert len(made) == 8, "two dollars are spent, and each of these is expected to take one"
    assert {answer.code for answer in answers if isinstance(answer, RequestError)} == {"spending_limit"}
    assert refused(services, key_id).retry_after_s == 60
    services.turn()
    before = services.store.spent_today(key_id, services.clock.now_ms())
    for job in made:
        run(services, job, 1)
    # They all run at the same time: what each costs depends on its claim.
    assert before == 2 * DOLLAR and services.store.spent_today(key_id, services.clock.now_ms()) == 10 * DOLLAR
    assert isinstance(refused(services, key_id), SpendingLimit)


@on_every_database
def test_of_two_requests_at_two_gateways_one_gets_the_last_place_in_the_budget(wire: Wire) -> None:
    gateways = [limited(wire, usd="3") for _ in range(2)]
    key_id = key_of(gateways[0])
    for _ in range(2):
        create_and_run(gateways[0], key_id, 1)
    for _ in range(3):
        answers = create_at_once(gateways, key_id, 2)
        (job,) = [answer for answer in answers if isinstance(answer, Job)]
        assert [type(answer) for answer in answers if answer is not job] == [SpendingLimit]
        gateways[1].jobs.cancel(job.id, key_id)


@on_every_database
def test_of_two_requests_at_two_gateways_one_is_the_last_job_of_the_key(wire: Wire) -> None:
    gateways = [limited(wire, jobs=1) for _ in range(2)]
    key_id = key_of(gateways[0])
    for _ in range(3):
        answers = create_at_once(gateways, key_id, 2)
        (job,) = [answer for answer in answers if isinstance(answer, Job)]
        assert [type(answer) for answer in answers if answer is not job] == [TooManyJobs]
        gateways[1].jobs.cancel(job.id, key_id)


@on_every_database
def test_the_mean_of_the_last_day_counts_on_the_next(wire: Wire) -> None:
    services = limited(wire, usd="4")
    key_id = key_of(services)
    with services.store.transaction() as tx:
        for _ in range(3):
            tx.spend(key_id, 2 * DOLLAR, services.clock.now_ms())
        tx.spend(key_id, 100 * DOLLAR, services.clock.now_ms() - DAY_MS)
    services.clock.advance(DAY_MS)
    assert services.store.usage(key_id, services.clock.now_ms()) == Usage(0, 0, 0, 2 * DOLLAR)
    create(services, key_id)
    create(services, key_id)
    assert refused(services, key_id).code == "spending_limit"


@on_every_database
def test_waiting_jobs_fail_once_the_daily_limit_is_reached(wire: Wire) -> None:
    services = limited(wire, usd="1")
    key_id, other = key_of(services), key_of(services, "other")
    first, *waiting = (create(services, key_id) for _ in range(4))
    with services.store.transaction() as tx:
        for job in waiting:
            tx.save_job(replace(job, next_at=services.clock.now_ms() + 5_000))
    services.turn()
    run(services, first, 1)
    theirs = create(services, other)
    services.clock.advance(4_000)
    services.turn()
    assert {attempt.job_id for attempt in services.provider.called("submit")} == {first.id, theirs.id}
    ended = services.store.jobs_by_id([job.id for job in waiting]).values()
    assert {(job.status, job.error_code, job.attempt_id) for job in ended} == {
        (JobStatus.FAILED, "budget_exhausted", None)
    }


@on_every_database
def test_no_further_attempt_is_made_once_the_daily_limit_is_reached(wire: Wire) -> None:
    services = limited(wire, usd="1")
    job = create_and_run(services, key_of(services), 1, EncodeFailed())
    services.clock.advance(10_000)
    services.turn()
    ended = services.store.job(job.id)
    assert ended and (ended.status, ended.error_code, ended.cost_nano) == (JobStatus.FAILED, "budget_exhausted", DOLLAR)
    assert len(services.provider.called("submit")) == 1
    (attempt,) = services.store.attempts(job.id)
    assert attempt.error_code == "encode_failed"


def test_an_end_that_is_reported_twice_is_charged_once(wire: Wire) -> None:
    services = limited(wire)
    key_id = key_of(services)
    job = create_and_run(services, key_id, 2)
    services.report(services.attempt(job).id, "failed", error=AssetNotFound())
    assert services.store.usage(key_id, services.clock.now_ms()) == Usage(0, 0, 2 * DOLLAR, 2 * DOLLAR)


def test_a_cancelled_attempt_is_charged(wire: Wire) -> None:
    services = limited(wire, usd="1")
    key_id = key_of(services)
    job = create(services, key_id)
    services.turn()
    services.report(services.attempt(job).id, "started")
    services.clock.advance(3_000)
    services.jobs.cancel(job.id, key_id)
    services.turn()
    (attempt,) = services.store.attempts(job.id)
    assert (attempt.state, attempt.cost_nano) == (AttemptState.SUPERSEDED, 3 * DOLLAR)
    assert refused(services, key_id).code == "spending_limit"


def test_zero_is_no_limit_and_own_machines_cost_nothing(wire: Wire) -> None:
    services = limited(wire)
    services.provider.default["price"] = None
    key_id = key_of(services)
    create_and_run(services, key_id, 3600)
    assert services.store.spent_by_key(services.clock.now_ms()) == {}
    services.store.together(lambda tx: tx.spend(key_id, 10**15, services.clock.now_ms()))
    assert all(isinstance(answer, Job) for answer in create_at_once([services], key_id, 10))


# Bytes of params

SIZE = len(REQUEST.params)


@on_every_database
def test_fifty_threads_store_no_more_bytes_than_allowed(wire: Wire) -> None:
    services, other = limited(wire, params_bytes=20 * SIZE), limited(wire, params_bytes=20 * SIZE)
    key_id = key_of(services)
    answers = create_at_once([services, other], key_id)
    assert [type(answer) for answer in answers].count(Job) == 20
    assert [type(answer) for answer in answers].count(TooManyBytes) == 30
    assert services.store.usage(key_id, 0).params_bytes == 20 * SIZE
    assert isinstance(create(services, key_of(services)), Job), "another key has its own"


@on_every_database
@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_every_ended_job_frees_the_bytes_of_its_params(wire: Wire, end: str) -> None:
    services = limited(wire, params_bytes=2 * SIZE)
    key_id = key_of(services)
    one, _ = create(services, key_id), create(services, key_id)
    error = refused(services, key_id)
    assert (error.code, error.status, error.retry_after_s) == ("too_many_bytes", 429, 10)
    assert f"MAX_PARAMS_BYTES_PER_KEY ({2 * SIZE})" in error.message and "DELETE /jobs" in error.message
    services.turn()
    assert refused(services, key_id).code == "too_many_bytes", "they wait at the provider"
    if end == "cancelled":
        services.jobs.cancel(one.id, key_id)
    else:
        run(services, one, 1)
    create(services, key_id)
    assert refused(services, key_id).code == "too_many_bytes"


def test_bytes_are_counted_before_many_could_have_been_added(wire: Wire) -> None:
    """Far from its limit a key is rarely counted, but never lets more than its allowance pass."""
    services = limited(wire, params_bytes=10 * ALLOWANCE_SHARE * SIZE)
    key_id = key_of(services)
    seen = statements(services)

    def counts() -> int:
        return sum("count(*)" in statement for statement in seen)

    for _ in range(11):
        create(services, key_id)
    assert counts() == 1, "ten more than the one that was counted"
    create(services, key_id)
    assert counts() == 2, "more than a share of the bytes, though the time is not over"
    services.add_job(key_id=key_id, params_bytes=10 * (ALLOWANCE_SHARE - GATEWAYS) * SIZE)
    services.clock.advance(ALLOWANCE_MS)
    before = counts()
    create(services, key_id)
    create(services, key_id)
    assert counts() == before + 2, "near the limit each one is counted"


@on_every_database
def test_unfinished_jobs_are_counted_by_their_index(services: Gateway, database: str) -> None:
    if database.startswith("postgresql"):
        pytest.skip("PostgreSQL chooses its plans by statistics")
    sums = "count(*), sum(params_bytes)"
    query = f"EXPLAIN QUERY PLAN SELECT {sums} FROM jobs WHERE key_id = 'k' AND finished_at IS NULL"
    known = "EXPLAIN QUERY PLAN SELECT id FROM api_keys WHERE secret_sha256 = 'a' OR previous_sha256 = 'a'"
    with services.store._engine.connect() as connection:
        assert "USING COVERING INDEX jobs_unfinished" in str(connection.execute(sa.text(query)).all())
        plan = str(connection.execute(sa.text(known)).all())
    assert "MULTI-INDEX OR" in plan and "SCAN" not in plan
