"""How a job begins: the intent, which provider is asked, and what its worker gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.db.engine import make_engine
from gateway.dispatch.delivery import EVENTS_PURPOSE
from gateway.dispatch.limits import AMBIGUOUS_MS
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import MARGIN_MS
from gateway.providers.base import Accepted, Ambiguous, NoCapacity, NotYet, Phase, Remote, Unavailable
from gateway.settings import Settings
from gateway.wiring import Services
from tests.gateway.conftest import (
    SECRET_KEY,
    START_MS,
    FakeProvider,
    FixedClock,
    JobFactory,
    Wire,
    on_every_database,
    video_key,
)
from tests.gateway.dispatch.support import attempts_of, follow, job_of, states, turn, until_due
from wire.envelope import parse_job_input
from wire.errors import EncodeFailed, EncoderUnavailable, JobError, WorkerOutdated

pytestmark = pytest.mark.usefixtures("no_jitter")


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


def test_nothing_is_done_before_it_is_due(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job_factory(next_at=START_MS + 1)
    assert turn(services) == 0
    clock.advance(1)
    assert turn(services) == 1
    assert len(provider.called("submit")) == 1


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
        ("one", AttemptState.FAILED),
        ("two", AttemptState.SUBMITTED),
    ]
    assert job_of(services, job).tries == 1


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
        ("one", AttemptState.FAILED),
        ("two", AttemptState.SUBMITTED),
    ]


def test_a_crash_before_anything_was_sent_loses_no_try(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(lease_token="of the dead", lease_expires_at=START_MS)
    turn(services)
    assert (states(services, job), job_of(services, job).tries) == ([AttemptState.SUBMITTED], 1)


def test_without_events_the_worker_is_not_told_of_any(wire: Wire, job_factory: JobFactory) -> None:
    provider = FakeProvider()
    services = wire({"fake": provider}, worker_events=False)
    job_factory()
    turn(services)
    delivery = parse_job_input(json.loads(json.dumps(provider.inputs[0]))).delivery
    assert delivery is not None
    assert delivery.events is None
    assert "video" in delivery.uploads


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
    assert delivery and delivery.uploads and delivery.events
    assert (delivery.job_id, delivery.attempt_id) == (attempt.job_id, attempt.id)
    assert delivery.deadline == attempt.deadline == START_MS + 3_600_000 + 77_000 + MARGIN_MS
    assert delivery.limits.timeout_s == 77
    assert delivery.limits.max_output_bytes == delivery.uploads["video"].max_bytes == settings.max_output_bytes
    assert delivery.limits.max_asset_bytes == settings.max_asset_bytes
    assert delivery.events.url == f"{settings.worker_base}/events/{attempt.id}"
    assert services.signer.read(EVENTS_PURPOSE, delivery.events.token) == [attempt.id, attempt.deadline]


def test_the_upload_url_is_good_for_this_attempt_until_its_deadline(
    job_input: dict[str, Any], services: Services, clock: FixedClock, provider: FakeProvider
) -> None:
    delivery = parse_job_input(job_input).delivery
    assert delivery and delivery.uploads
    (attempt,) = provider.called("submit")
    path, _, signature = delivery.uploads["video"].url.partition("?signature=")
    assert path.endswith(f"/files/{video_key(attempt)}")
    clock.advance(attempt.deadline - START_MS - 1)
    assert services.storage.allowed("PUT", video_key(attempt), signature) == delivery.uploads["video"].max_bytes
    clock.advance(1)
    assert services.storage.allowed("PUT", video_key(attempt), signature) is None


def test_the_worker_gets_no_secret_of_ours(job_input: dict[str, Any], api_key: str) -> None:
    text = json.dumps(job_input)
    assert SECRET_KEY not in text
    assert api_key not in text
    assert "key_" not in text.replace("outputs", "")
