"""Large bodies, which another process checks: they get the responses of small ones, and delay no one."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gateway.access.thread_limits import LARGE_BODIES
from gateway.api import body_child, body_process, job_request, operation_routes
from gateway.api.body_process import LARGE_BODY, BodyProcess
from gateway.errors import BodyTimeout, ServiceUnavailable
from gateway.providers.base import Accepted, JobInput
from tests.gateway.api.conftest import CAPTION
from tests.gateway.conftest import FakeProvider, Gateway
from tests.servers import eventually

WORDS = [{"word": f"word{i}", "start": i / 10, "end": i / 10 + 0.09} for i in range(2000)]
GOOD: dict[str, Any] = {"url_video": CAPTION["url_video"], "words": WORDS}
TEXT = json.dumps(GOOD).encode()
PUBLIC_HOOK = "https://example.com/hook"
BAD: dict[str, Any] = {
    "wrong words": {**GOOD, "words": [{**word, "end": "x"} for word in WORDS]},
    "an unknown field": {**GOOD, "url_vido": "https://example.com/v.mp4"},
    "a missing field": {"words": WORDS},
    "two sources": {**GOOD, "url_srt": CAPTION["url_srt"]},
    "a wrong webhook": {**GOOD, "webhook_url": "ftp://example.com"},
    "a webhook inside": {**GOOD, "webhook_url": "http://127.0.0.1/hook"},
    "too many fields": {str(i): "x" * 1000 for i in range(101)},
    "no object": [GOOD],
    "half of a surrogate pair": {**GOOD, "reference": "\ud800"},
    "too deep": {**GOOD, "style": json.loads("[" * 50 + "]" * 50)},
}
GOOD_REQUESTS: dict[str, dict[str, Any]] = {
    "words": GOOD,
    "all fields": {**GOOD, "webhook_url": PUBLIC_HOOK, "reference": 7, "filename": "é"},
    "other letters": {**GOOD, "words": [{**word, "word": "字\0\u2028"} for word in WORDS]},
}


def text_of(body: object) -> bytes:
    text = json.dumps(body).encode()
    assert len(text) > LARGE_BODY
    return text


def shown(response: TestResponse) -> tuple[int, list[tuple[str, str]], bytes]:
    """What the client sees but for what differs between any two requests."""
    varying = {"X-Request-Id", "RateLimit-Remaining", "RateLimit-Reset"}
    body = response.data.replace(response.headers["X-Request-Id"].encode(), b"")
    return response.status_code, [(n, v) for n, v in response.headers if n not in varying], body


@pytest.fixture
def process() -> Iterator[BodyProcess]:
    process = BodyProcess()
    yield process
    process.stop()


def _post(api: FlaskClient, body: bytes, query: str = "", **headers: str) -> TestResponse:
    return api.post(f"/video/caption{query}", data=body, headers={"Content-Type": "application/json", **headers})


@pytest.fixture
def both(api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Posts a body twice: checked in another process, and in this one. Returns both responses."""
    used = []
    read = services.body_process.read
    monkeypatch.setattr(services.body_process.__class__, "read", lambda self, *a, **k: used.append(1) or read(*a, **k))

    def post(body: bytes, query: str = "") -> tuple[TestResponse, TestResponse]:
        large = _post(api, body, query)
        assert len(used) == 1
        with monkeypatch.context() as patch:
            patch.setattr(operation_routes, "LARGE_BODY", len(body))
            small = _post(api, body, query)
        assert len(used) == 1
        return large, small

    return post


@pytest.mark.slow
@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_an_invalid_body_gets_the_response_of_a_small_one(both: Any, body: object) -> None:
    large, small = both(text_of(body))
    assert large.status_code in {400, 422}
    assert shown(large) == shown(small)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [b"{" * 70_000, b"\xff" * 70_000, b'{"a": ' + b"9" * 70_000 + b"}", b" " * 70_000, b'"' + b"x" * 70_000 + b'"'],
    ids=["unclosed", "no UTF-8", "a long number", "blank", "text"],
)
def test_a_body_that_is_no_object_gets_the_response_of_a_small_one(both: Any, body: bytes) -> None:
    large, small = both(body)
    assert large.status_code in {400, 422}
    assert shown(large) == shown(small)


@pytest.mark.slow
@pytest.mark.parametrize("body", GOOD_REQUESTS.values(), ids=GOOD_REQUESTS)
def test_a_valid_body_makes_the_same_job_and_has_the_same_defaults(
    both: Any, services: Gateway, body: dict[str, Any]
) -> None:
    large, small = (response.get_json() for response in both(text_of(body)))
    texts = [services.store.params(made["jobId"]) for made in (large, small)]
    assert texts[0] == texts[1] and json.loads(texts[0] or "")["words"] == body["words"]
    jobs = [services.store.job(made["jobId"]) for made in (large, small)]
    assert len({(job.webhook_url, job.reference, job.filename, str(job.outputs)) for job in jobs if job}) == 1


@pytest.mark.slow
def test_validation_returns_the_same_params(both: Any) -> None:
    large, small = both(text_of(GOOD), "?validate=true")
    assert shown(large) == shown(small)
    assert large.get_json()["params"]["words"] == WORDS


@pytest.mark.slow
def test_equal_requests_have_one_job_whoever_checks_them(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _post(api, text_of(GOOD), **{"Idempotency-Key": "k"}).get_json()["jobId"]
    monkeypatch.setattr(operation_routes, "LARGE_BODY", 10**6)
    reordered = text_of(dict(reversed(GOOD.items())))
    assert _post(api, reordered, **{"Idempotency-Key": "k"}).get_json()["jobId"] == first


@pytest.mark.slow
def test_no_json_of_a_large_body_is_parsed_or_made_here(
    api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to create the job nor to submit it."""
    limit = len(TEXT) // 2
    for name in ("loads", "dumps"):
        real = getattr(json, name)

        def checked(value: Any, *args: Any, real: Any = real, **kwargs: Any) -> Any:
            made = real(value, *args, **kwargs)
            assert max(len(part) for part in (value, made) if isinstance(part, str | bytes)) < limit
            return made

        monkeypatch.setattr(json, name, checked)
    inputs: list[JobInput] = []
    monkeypatch.setattr(FakeProvider, "submit", lambda _, attempt, given: inputs.append(given) or Accepted("remote"))
    assert _post(api, TEXT).status_code == 202
    services.turn()
    monkeypatch.undo()
    assert json.loads(inputs[0].text)["words"] == WORDS


def test_a_key_gets_its_share_of_places(api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_routes, "PLACE_S", 0.05)
    key_id = services.keys.list()[0].id
    for _ in range(LARGE_BODIES // 4):
        assert services.thread_limits.large_bodies.take(key_id)
    refused = _post(api, TEXT)
    assert (refused.status_code, refused.get_json()["code"]) == (503, "bodies_busy")
    assert "Retry-After" in refused.headers
    assert _post(api, json.dumps(CAPTION).encode()).status_code == 202
    assert services.thread_limits.large_bodies.take("another key")


@pytest.mark.slow
def test_a_request_waits_for_its_place(api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_routes, "PLACE_S", 60)
    places, key_id = services.thread_limits.large_bodies, services.keys.list()[0].id
    for _ in range(LARGE_BODIES // 4):
        assert places.take(key_id)
    later = threading.Timer(0.5, places.give_back, (key_id,))
    later.start()
    assert _post(api, TEXT).status_code == 202
    later.join()
    assert places.take(key_id) and not places.take(key_id)


@pytest.mark.slow
def test_a_process_that_died_is_replaced(process: BodyProcess) -> None:
    process.start()
    assert process._child is not None
    os.kill(process._child._process.pid, signal.SIGKILL)
    assert process.read("caption", TEXT, "key") == job_request.read("caption", TEXT)


@pytest.mark.slow
def test_a_body_that_kills_every_process_is_refused(process: BodyProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_process._Child, "call", _killed)
    with pytest.raises(ServiceUnavailable):
        process.read("caption", TEXT, "key")
    monkeypatch.undo()
    assert process.read("caption", TEXT, "key").operation == "caption"


def _killed(child: Any, *_: Any) -> Any:
    os.kill(child._process.pid, signal.SIGKILL)
    return body_child.receive(child._connection)


@pytest.mark.slow
def test_a_body_that_takes_too_long_is_refused(process: BodyProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    process.read("caption", TEXT, "key")
    assert process._child is not None
    stopped = process._child._process.pid
    os.kill(stopped, signal.SIGSTOP)
    monkeypatch.setattr(body_process, "BODY_S", 0.5)
    with pytest.raises(BodyTimeout):
        process.read("caption", TEXT, "key")
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)
    monkeypatch.undo()
    assert process.read("caption", TEXT, "key").operation == "caption"


@pytest.mark.slow
def test_a_bug_in_a_schema_is_an_error_of_the_server(process: BodyProcess) -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        process.read("no_such_operation", TEXT, "key")
    assert process.read("caption", TEXT, "key").operation == "caption"


@pytest.mark.slow
def test_many_threads_share_the_process(process: BodyProcess) -> None:
    bodies = [json.dumps({**GOOD, "reference": f"r{i}"}).encode() for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        read = list(pool.map(lambda i: process.read("caption", bodies[i], f"key{i % 3}"), range(12)))
    assert [request.fields["reference"] for request in read] == [f"r{i}" for i in range(12)]


@pytest.mark.slow
def test_the_process_ends_with_the_gateway(process: BodyProcess) -> None:
    """It has no other sign of that than the end of its connection."""
    process.start()
    child = process._child
    assert child is not None
    child._connection.close()
    eventually(lambda: child._process.poll() is not None, 30)


@pytest.mark.slow
def test_the_process_has_low_priority_and_none_of_our_secrets(
    process: BodyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "a-secret-of-the-gateway")
    process.read("caption", TEXT, "key")
    assert process._child is not None
    process_id = process._child._process.pid
    assert os.getpriority(os.PRIO_PROCESS, process_id) == body_child.NICE
    assert b"a-secret" not in Path(f"/proc/{process_id}/environ").read_bytes()
