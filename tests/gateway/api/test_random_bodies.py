"""Random bodies for every route that accepts one: FUZZ_CASES per route, reproducible by FUZZ_SEED."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ffmpeg_ops.operation import OPERATIONS
from gateway.dispatch.delivery import EVENTS_PURPOSE
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import JobStatus
from tests.gateway.api.conftest import VIDEO, documented_paths, local
from tests.gateway.api.stored import files, rows
from tests.gateway.conftest import CLAIM, Gateway, JobFactory, Wire
from tests.outputs import video_key
from wire.errors import CODES

CASES, SEED = int(os.environ.get("FUZZ_CASES", "200")), int(os.environ.get("FUZZ_SEED", "1"))
QUICK_CASES = 100
MOST = 5000

STATS = {"duration_s": 2.0, "size_bytes": len(VIDEO), "encoder": "libx264", "warnings": ["odd"]}
ERROR = {"code": "worker_error", "message": "Out of memory.", "retryable": True}
VALID: dict[str, list[bytes]] = {
    **{
        f"POST /video/{o.name}": [json.dumps(dict(example)).encode() for example in o.examples]
        for o in OPERATIONS.values()
    },
    "POST /events/{attempt_id}": [
        json.dumps({"claim_id": CLAIM, **event}).encode()
        for event in (
            {"type": "started"},
            {"type": "progress", "progress": 0.5},
            {"type": "completed", "result": {"outputs": {"video": {"size_bytes": 5}}, "stats": STATS}},
            {"type": "failed", "error": ERROR},
        )
    ],
    "POST /files": [
        VIDEO,
        b"ID3" + bytes(64),
        b"1\n00:00:00,100 --> 00:00:00,500\nfim\n",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
    ],
    "PUT /files/outputs/{job_id}/{attempt_id}/{file_name}": [VIDEO],
    "POST /jobs/{job_id}/webhook": [b"{}"],
}
TEXTS = [
    "",
    "x",
    "\0",
    "\ud800",
    "\U0010ffff",
    "é" * 300,
    "x" * 5000,
    "https://example.com/v.mp4",
    "http://[::1",
    "started",
    "'",
]
NUMBERS = [0, -1, 1, 2**63, -(2**63) - 1, 2**2000, 1e308, -1e-308, float("nan"), float("inf"), -float("inf"), 0.1]
TYPES = [
    "application/json", "application/json; charset=utf-16", "application/json; charset=nothing", "APPLICATION/JSON",
    "application/vnd.reelay+json", "application/json;;=;", "text/plain", "text/html", "", "x", "ÿ/ÿ",
    "multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "video/mp4",
]  # fmt: skip
HEADERS = {
    "Content-Encoding": ["gzip", "br", "identity", "deflate, gzip", "ÿ"],
    "Idempotency-Key": ["", '""', "a", "x" * 255, "x" * 256, "ÿ", "\x7f"],
    "Prefer": ["wait=0", "wait=1", "wait=999999", "wait=9999999", "wait=-1", "wait", "respond-async, wait=5;x", "ÿ"],
    "Range": ["bytes=0-1", "bytes=9-", "lines=1"],
    "X-Request-Id": ["", "x" * 65, "ÿ", "fine"],
    "Authorization": ["Bearer x", "Basic ÿ", ""],
    "Expect": ["100-continue"],
}
QUERIES = [
    "",
    "",
    "",
    "?wait=0",
    "?wait=1",
    "?wait=-1",
    "?wait=x",
    "?wait=1&wait=2",
    "?wait=" + "9" * 5000,
    "?x=1",
    "?%ff=%00",
]


def some_json(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth > 4 or kind < 0.5:
        return chance.choice([None, True, False, chance.choice(NUMBERS), chance.choice(TEXTS)])
    size = chance.choice([0, 1, 2, 5, 150 if depth == 0 else 3])
    if kind < 0.7:
        return [some_json(chance, depth + 1) for _ in range(size)]
    names = ["url_video", "webhook_url", "type", "claim_id", "encoding", "style", "duration", "operation", "delivery"]
    return {f"{chance.choice([*names, *TEXTS])}{n or ''}": some_json(chance, depth + 1) for n in range(size)}


def odd_json(chance: random.Random) -> bytes:
    """JSON that no library would write."""
    return chance.choice(
        [
            b"[" * 60_000,
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
            b"{" + b",".join(b'"k%d":1' % n for n in range(5000)) + b"}",
            b'{"url_video": "https://example.com/v.mp4", "url_video": null}',
            b'{"claim_id": "' + CLAIM.encode() + b'", "type": "started", "type": "failed"}',
            b'{"duration": ' + b"9" * 6000 + b"}",
            b'{"duration": 1e999999, "frame_rate": -0}',
            b'{"url_image": "https://example.com/\\ud83d.jpg"}',
            b'\xef\xbb\xbf{"type": "started"}',
            '{"type": "started"}'.encode("utf-16"),
            b'{"type": "started"}\0',
            b'{"progress": NaN, "type": "progress"}',
            b"null",
            b'""',
            b"",
        ]
    )


def mutated(body: bytes, chance: random.Random) -> bytes:
    """A valid body with one field or a few bytes changed."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if document and chance.random() < 0.6:
        where = document
        while (inner := [v for v in where.values() if isinstance(v, dict) and v]) and chance.random() < 0.6:
            where = chance.choice(inner)
        name = chance.choice([*where, "unknown"])
        if chance.random() < 0.2:
            where.pop(name, None)
        else:
            where[name] = some_json(chance, 2)
        return json.dumps(document).encode()
    changed = bytearray(body)
    for _ in range(chance.choice([0, 1, 1, 3, 30])):
        at = chance.randrange(len(changed) + 1)
        changed[at : at + chance.choice([0, 1, 1, 9])] = chance.randbytes(chance.choice([0, 1, 1, 9]))
    return bytes(changed)


@dataclass(frozen=True)
class Call:
    """A request."""

    body: bytes
    query: str
    headers: Mapping[str, str]
    environ: Mapping[str, Any] = field(default_factory=dict)

    def send(self, client: FlaskClient, method: str, path: str, headers: Mapping[str, str]) -> TestResponse:
        glue = self.query.replace("?", "&") if "?" in path else self.query
        return client.open(
            path + glue,
            method=method,
            input_stream=BytesIO(self.body),
            headers={**self.headers, **headers},
            environ_overrides={"CONTENT_LENGTH": str(len(self.body)), **self.environ},
        )


def make_call(route: str, chance: random.Random) -> Call:
    kind = chance.random()
    if kind < 0.1:
        body = chance.randbytes(chance.choice([0, 1, 20, 3000]))
    elif kind < 0.3:
        body = json.dumps(some_json(chance)).encode()
    elif kind < 0.4:
        body = odd_json(chance)
    else:
        body = mutated(chance.choice(VALID[route]), chance)
    headers = {} if chance.random() < 0.03 else {"Content-Type": "application/json"}
    if chance.random() < 0.15:
        headers["Content-Type"] = chance.choice(TYPES)
    for name, values in HEADERS.items():
        if chance.random() < 0.05:
            headers[name] = chance.choice(values)
    environ: dict[str, Any] = {}
    if (framing := chance.random()) < 0.06:  # chunked, without a length
        environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    elif framing < 0.14:
        wrong = ["", "0", "-5", "x", "1e3", "9" * 40, str(len(body) + 1), str(len(body) // 2), str(2 * 10**9)]
        environ = {"CONTENT_LENGTH": chance.choice(wrong)}
    return Call(body, chance.choice(QUERIES) if chance.random() < 0.1 else "", headers, environ)


class Target:
    """A route with what it needs: a client's key, an ended job, or an attempt with its token and URL."""

    def __init__(self, route: str, app: Flask, services: Gateway, key: str, job_factory: JobFactory) -> None:
        self.method, _, self._path = route.partition(" ")
        self._services, self._job_factory = services, job_factory
        self._client, self._headers = app.test_client(), {"X-API-Key": key}
        job = job_factory(webhook_url="https://example.com/hook")
        self._ended = services.jobs.cancel(job.id, job.key_id).id
        self._attempt: Attempt | None = None

    def prepare(self) -> None:
        """Provide an unfinished attempt if the route is for workers."""
        if "{attempt_id}" not in self._path:
            return
        if self._attempt is not None:
            self._attempt = self._services.store.attempt(self._attempt.id)
            if self._attempt is not None and not self._attempt.ended:
                return
        with self._services.store._engine.begin() as connection:  # keeps the comparison of rows small
            connection.exec_driver_sql("DELETE FROM jobs WHERE webhook_url IS NULL")
        job = self._job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, next_at=None)
        self._attempt = self._services.attempt(job)

    def open(self, call: Call) -> TestResponse:
        path, headers = self._path.replace("{job_id}", self._ended), self._headers
        if attempt := self._attempt:
            token = self._services.signer.sign(EVENTS_PURPOSE, [attempt.id, attempt.deadline])
            path = path.replace("{attempt_id}", attempt.id)
            headers = {"Authorization": f"Bearer {token}"}
            if "{file_name}" in path:
                expires_at = attempt.deadline
                upload = self._services.storage.presign_put(video_key(attempt), max_bytes=MOST, expires_at=expires_at)
                path = local(upload.url)
        return call.send(self._client, self.method, path, headers)


@pytest.fixture
def services(wire: Wire) -> Gateway:
    return wire(rate_limit_per_key=0, max_jobs_per_key=1_000_000, max_wait_seconds=0, max_asset_bytes=MOST)


@pytest.fixture
def fuzz(
    app: Flask, services: Gateway, api_key: str, api: FlaskClient, job_factory: JobFactory
) -> Callable[[str, int], Counter[int]]:
    """Sends `cases` requests to a route and returns the number of responses by status."""
    spec = documented_paths(api)

    def run(route: str, cases: int) -> Counter[int]:
        target = Target(route, app, services, api_key, job_factory)
        documented = set(spec[route.partition(" ")[2]][target.method.lower()]["responses"])
        statuses: Counter[int] = Counter()
        accepted = []
        for number in range(cases):
            call = make_call(route, random.Random(f"{SEED}-{route}-{number}"))
            target.prepare()
            # Routes that add rows are checked at the end, others after every request.
            before = None if "video" in route else rows(services)
            response = target.open(call)
            where = (number, call.headers, call.environ, call.body[:300], response.get_data()[:300])
            statuses[response.status_code] += 1
            assert str(response.status_code) in documented, where
            if response.status_code >= 400:
                check_refusal(response, where)
                assert before is None or rows(services) == before, where
            elif response.data:
                accepted.append(response.get_json())
        check_what_is_left(route, accepted, services, api)
        return statuses

    return run


def check_refusal(response: TestResponse, where: object) -> None:
    assert response.status_code < 500, where
    assert response.mimetype == "application/problem+json", where
    text = response.get_data().decode()
    document = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in {where}"))
    assert CODES[document["code"]].status == document["status"] == response.status_code, where  # type: ignore[attr-defined]
    assert "Traceback" not in text and "site-packages" not in text, where
    assert len(text) < 200_000, where


def check_what_is_left(route: str, accepted: list[Any], services: Gateway, api: FlaskClient) -> None:
    """Refused requests leave nothing; accepted jobs can be read."""
    kept = rows(services)
    if "video" in route:
        made = {document["jobId"] for document in accepted}
        first = {row[0] for row in kept["webhooks"]}  # the job of the target
        assert {row[0] for row in kept["jobs"]} - made == first - made
        assert {row[3] for row in kept["idempotency"]} <= made
        for job_id in made:
            assert api.get(f"/jobs/{job_id}").status_code in {200, 202}
    stored = set(files(services))
    if route == "POST /files":
        assert stored == {urlsplit(document["url"]).path.removeprefix("/files/") for document in accepted}
    elif "{file_name}" not in route:
        assert stored == set()
    assert not any(".part-" in name for name in stored)


@pytest.mark.parametrize("route", VALID)
def test_random_bodies_are_accepted_or_refused(fuzz: Callable[[str, int], Counter[int]], route: str) -> None:
    statuses = fuzz(route, QUICK_CASES)
    assert {200, 201, 202} & set(statuses)


@pytest.mark.slow
@pytest.mark.parametrize("route", VALID)
def test_many_random_bodies_are_accepted_or_refused(fuzz: Callable[[str, int], Counter[int]], route: str) -> None:
    print(f"{route}: {dict(sorted(fuzz(route, CASES).items()))}")


def test_every_route_with_a_body_is_tried(api: FlaskClient) -> None:
    paths = documented_paths(api)
    taking = {
        f"{method.upper()} {path}" for path, item in paths.items() for method in item if method in {"post", "put"}
    }
    assert taking == set(VALID)
