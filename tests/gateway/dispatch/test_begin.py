"""How a job begins: the intent, which provider is asked, and what its worker gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.db.engine import make_engine
from gateway.dispatch.delivery import EVENTS_PURPOSE
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import MARGIN_MS
from gateway.providers.base import Accepted, Ambiguous, NoCapacity, NotYet, Phase, Remote, Unavailable
from gateway.settings import Settings
from tests.gateway.conftest import PARAMS, SECRET_KEY, START_MS, Gateway, JobFactory, Wire, on_every_database, video_key
from wire.envelope import parse_job_input
from wire.errors import EncodeFailed, EncoderUnavailable, EncoderUnsuitable, WorkerOutdated


@on_every_database
def test_the_intent_is_committed_before_the_provider_is_asked(services: Gateway, settings: Settings) -> None:
    job = services.add_job()
    other = make_engine(settings.database, pool_size=1)
    seen: list[Any] = []

    def submit(attempt: Attempt) -> Accepted:
        query = "SELECT a.id, a.state, a.sent_at, j.attempt_id FROM attempts a JOIN jobs j ON j.id = a.job_id"
        with other.connect() as connection:
            seen.extend(map(tuple, connection.execute(sa.text(query))))
        return Accepted("r1")

    services.provider.script("submit", submit)
    assert services.turn() == 1
    (attempt,) = services.store.attempts(job.id)
    assert seen == [(attempt.id, "intent", START_MS, attempt.id)]
    other.dispose()


def test_the_chain_wraps_round_with_back_off_up_to_the_queue_limit(two: Gateway) -> None:
    for provider in two.providers.values():
        provider.default["submit"] = NoCapacity("none free")
    job = two.add_job(queue_limit_s=600)
    pauses = []
    two.turn()
    while not two.job(job).finished:
        pauses.append(two.until_due(job))
        two.turn()
    assert all(pause == 0 for pause in pauses[::2])
    assert pauses[1] < pauses[3] < pauses[5]
    assert max(pauses) == 60_000
    after = two.job(job)
    assert (after.error_code, after.tries) == ("queue_timeout", 0)
    assert "none free" in after.error_message
    tried = [attempt.provider for attempt in two.store.attempts(job.id)]
    assert tried == ["one", "two"] * (len(tried) // 2)


@pytest.mark.parametrize(
    ("call", "answer", "then", "tries"),
    [
        ("submit", Unavailable("down"), "two", 1),
        ("submit", NoCapacity("full"), "two", 1),
        ("submit", Ambiguous("500"), "two", 2),
        ("poll", Remote(Phase.FAILED, error=WorkerOutdated()), "two", 2),
        ("poll", Remote(Phase.FAILED, error=EncoderUnavailable()), "two", 1),
        ("poll", Remote(Phase.FAILED, error=EncoderUnsuitable()), "two", 1),
        ("poll", Remote(Phase.FAILED, error=EncodeFailed()), "one", 2),
    ],
)
def test_the_end_of_an_attempt_decides_which_provider_is_next(
    two: Gateway, call: str, answer: Any, then: str, tries: int
) -> None:
    two.provider.script(call, answer)
    job = two.add_job()
    two.turn()
    while len(two.states(job)) < 2:
        pause = two.until_due(job)
        two.turn()
    assert pause == 0 or call == "poll" or tries == 2, "no attempt ran: the next follows at once"
    assert two.states(job) == [AttemptState.FAILED, AttemptState.SUBMITTED]
    assert (two.attempt(job).provider, two.job(job).tries) == (then, tries)


def test_after_a_wait_at_the_last_provider_the_first_follows_at_once(two: Gateway) -> None:
    two.providers["one"].script("submit", Unavailable("not here"))
    two.providers["two"].script("submit", *[NotYet("busy", 2.0)] * 20, NoCapacity("busy for too long"))
    job = two.add_job()
    two.turn()
    two.follow(job, 21)
    assert [a.error_code for a in two.store.attempts(job.id)] == ["provider_unavailable", "no_capacity"]
    assert two.until_due(job) == 0
    two.turn()
    assert two.attempt(job).provider == "one"


def test_without_events_the_worker_gets_no_url_for_them(wire: Wire) -> None:
    services = wire(worker_events=False)
    services.add_job()
    services.turn()
    delivery = parse_job_input(json.loads(json.dumps(services.provider.inputs[0]))).delivery
    assert delivery.events is None
    assert "video" in delivery.uploads


# What the worker gets


@pytest.fixture
def job_input(services: Gateway, job_factory: JobFactory) -> dict[str, Any]:
    job_factory(id="job_01HF7YAT00000000000000000A", timeout_s=77)
    services.turn()
    return json.loads(json.dumps(services.provider.inputs[0]))


def test_the_worker_gets_the_clients_params_and_nothing_else(job_input: dict[str, Any]) -> None:
    parsed = parse_job_input(job_input)
    assert parsed.operation == "caption"
    assert dict(parsed.params) == PARAMS


def test_the_worker_gets_its_limits_and_where_to_deliver_and_report(
    job_input: dict[str, Any], services: Gateway, settings: Settings
) -> None:
    delivery = parse_job_input(job_input).delivery
    (attempt,) = services.provider.called("submit")
    assert (delivery.job_id, delivery.attempt_id) == (attempt.job_id, attempt.id)
    assert delivery.deadline == attempt.deadline == START_MS + 3_600_000 + 77_000 + MARGIN_MS
    assert delivery.limits.timeout_s == 77
    assert delivery.limits.max_output_bytes == delivery.uploads["video"].max_bytes == settings.max_output_bytes
    assert delivery.limits.max_asset_bytes == settings.max_asset_bytes
    assert delivery.events.url == f"{settings.worker_base}/events/{attempt.id}"
    assert services.signer.read(EVENTS_PURPOSE, delivery.events.token) == [attempt.id, attempt.deadline]


def test_the_upload_url_is_good_for_this_attempt_until_its_deadline(
    job_input: dict[str, Any], services: Gateway
) -> None:
    delivery = parse_job_input(job_input).delivery
    (attempt,) = services.provider.called("submit")
    path, _, signature = delivery.uploads["video"].url.partition("?signature=")
    assert path.endswith(f"/files/{video_key(attempt)}")
    services.clock.advance(attempt.deadline - START_MS - 1)
    assert services.storage.allowed("PUT", video_key(attempt), signature) == delivery.uploads["video"].max_bytes
    services.clock.advance(1)
    assert services.storage.allowed("PUT", video_key(attempt), signature) is None


def test_the_worker_gets_no_secret_of_ours(job_input: dict[str, Any], api_key: str) -> None:
    text = json.dumps(job_input)
    assert SECRET_KEY not in text
    assert api_key not in text
    assert "key_" not in text.replace("outputs", "")
