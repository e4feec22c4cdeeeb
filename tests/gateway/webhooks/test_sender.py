"""Webhooks sent to a real receiver, verified with the library of Standard Webhooks."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from common.clock import to_rfc3339
from gateway.access.keys import WEBHOOK_SECRET_KEPT_MS, webhook_secrets
from gateway.domain import webhooks
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.outputs import Output
from gateway.domain.webhooks import Webhook
from gateway.settings import Settings
from gateway.webhooks import sender
from gateway.webhooks.sender import LEASE_MS, PER_HOST, PER_KEY, POOL
from tests.conftest import ROOT
from tests.gateway.conftest import PROCESSES, RESULT, FixedClock, Gateway, JobFactory, Key, Wire
from tests.servers import FileServer, Reply, Request, eventually, file_server
from wire.errors import AssetNotFound

# Written down a second time on purpose.
PAUSES_S = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
DAY_S = 86_400


@pytest.fixture
def clock() -> FixedClock:
    """Starts today, because the library compares with the real time."""
    return FixedClock(time.time_ns() // 1_000_000)


@pytest.fixture
def files(files: FileServer) -> FileServer:
    """A receiver that accepts what comes to /hook."""
    files.routes["/hook"] = Reply(200)
    return files


@pytest.fixture
def services(wire: Wire, files: FileServer) -> Gateway:
    return wire(webhook_allow_origins=(files.origin,))


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: 1.0)


def ended(services: Gateway, url: str, **changes: Any) -> Job:
    """A job that has just been cancelled, with a webhook to `url`."""
    job = services.add_job(webhook_url=url, **changes)
    return services.jobs.cancel(job.id, job.key_id)


def wait_for_webhooks(*gateways: Gateway) -> None:
    """Let the gateways take turns until no webhook is pending."""
    query = sa.text("SELECT count(*) FROM webhooks WHERE state = 'pending'")
    while True:
        with gateways[0].store._engine.connect() as connection:
            if not connection.scalar(query):
                return
        for gateway in gateways:
            gateway.turn()


def webhook_of(services: Gateway, job: Job) -> Webhook:
    return services.store.webhooks([job.id])[job.id]


def headers_of(request: Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def ids_of(files: FileServer) -> list[str]:
    return [headers_of(request)["webhook-id"] for request in files.requests]


def secrets_of(services: Gateway, key: Key) -> list[str]:
    now = services.clock.now_ms()
    return webhook_secrets(services.signer, key.record.id, services.store.api_key(key.record.id), now)


def known(request: Request, secret: str) -> bool:
    try:
        return bool(Oracle(secret).verify(request.body, request.headers))
    except WebhookVerificationError:
        return False


# What is sent


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (
            JobStatus.COMPLETED,
            {"outputs": {"video": Output("mp4", "outputs/a/b/video.mp4", 16)}, "stats": {"size_bytes": 16}},
        ),
        (JobStatus.FAILED, {"error_code": "asset_not_found", "error_message": "vidéo: 404"}),
        (JobStatus.CANCELLED, {}),
    ],
)
def test_the_job_s_document_is_sent_with_a_signature(
    services: Gateway, job_factory: JobFactory, files: FileServer, key: Key, status: JobStatus, changes: dict[str, Any]
) -> None:
    files.routes["/hook"] = Reply(204)
    job = job_factory(webhook_url=files.url("/hook?token=x"), next_at=None)
    services.clock.advance(1500)
    job = replace(job, status=status, started_at=job.created_at, finished_at=services.clock.now_ms(), **changes)
    services.store.together(lambda tx: tx.save_job(job))
    document = services.documents.of(job)
    services.clock.advance(1000)
    services.turn()
    (request,) = files.requests
    payload = Oracle(secrets_of(services, key)[0]).verify(request.body, request.headers)
    assert set(payload) == {"type", "timestamp", "data"}
    assert payload["type"] == f"job.{status}"
    assert payload["timestamp"] == to_rfc3339(services.clock.now_ms() - 1000)
    assert (
        payload["data"].pop("video_url", None) != document.pop("video_url", None) or status is not JobStatus.COMPLETED
    )
    for data in (payload["data"], document):
        data.get("outputs", {}).get("video", {}).pop("url", None)
    assert payload["data"].pop("webhook")["tries"] == document.pop("webhook")["tries"] == 0
    assert payload["data"] == document
    headers = headers_of(request)
    assert (request.method, request.path, headers["content-type"]) == ("POST", "/hook?token=x", "application/json")
    assert headers["webhook-id"] == f"wh_{job.id[4:]}"
    assert headers["webhook-timestamp"] == str(services.clock.now_ms() // 1000)
    after = webhook_of(services, job)
    assert (after.state, after.tries, after.last_status_code, after.next_at) == ("succeeded", 1, 204, None)
    assert (after.last_try_at, after.lease_token, after.last_error) == (services.clock.now_ms(), None, None)
    services.turn()
    assert len(files.requests) == 1


def complete(services: Gateway, job: Job) -> None:
    services.put_output(job.attempt_id)
    services.report(job.attempt_id, "started")
    services.report(job.attempt_id, "completed", result=RESULT)


def fail(services: Gateway, job: Job) -> None:
    services.report(job.attempt_id, "started")
    services.report(job.attempt_id, "failed", error=AssetNotFound("404"))


def cancel(services: Gateway, job: Job) -> None:
    services.jobs.cancel(job.id, job.key_id)


def wait_too_long(services: Gateway, job: Job) -> None:
    services.clock.advance(job.queue_limit_s * 1000 + 1)  # type: ignore[attr-defined]
    services.turn()


@pytest.mark.parametrize(
    ("end", "attempt"),
    [
        *((end, AttemptState.SUBMITTED) for end in (complete, fail, cancel, wait_too_long)),
        *((end, None) for end in (cancel, wait_too_long)),
    ],
)
def test_every_kind_of_end_is_sent_once(
    services: Gateway, files: FileServer, end: Callable[..., None], attempt: AttemptState | None
) -> None:
    job = services.add_job(webhook_url=files.url("/hook"), attempt=attempt)
    end(services, job)
    for _ in range(3):
        services.turn()
    assert [json.loads(request.body)["data"]["jobId"] for request in files.requests] == [job.id]


# Secrets


def test_both_secrets_sign_for_a_day_after_a_rotation(services: Gateway, files: FileServer, key: Key) -> None:
    (old,) = secrets_of(services, key)
    services.keys.rotate_webhook_secret(key.record.id)
    new = secrets_of(services, key)[0]
    assert new != old and new.startswith("whsec_")
    ended(services, files.url("/hook"), key_id=key.record.id)
    services.turn()
    assert [known(files.requests[0], secret) for secret in (new, old)] == [True, True]
    assert len(headers_of(files.requests[0])["webhook-signature"].split(" ")) == 2
    services.clock.advance(WEBHOOK_SECRET_KEPT_MS - 1)
    assert secrets_of(services, key) == [new, old]
    services.clock.advance(1)
    assert secrets_of(services, key) == [new]


def test_both_secrets_sign_after_a_change_of_secret_key(
    wire: Wire, files: FileServer, key: Key, services: Gateway, settings: Settings
) -> None:
    (old,) = secrets_of(services, key)
    after = wire(webhook_allow_origins=(files.origin,), secret_key=("n" * 32, *settings.secret_key))
    ended(services, files.url("/hook"), key_id=key.record.id)
    after.turn()
    new = secrets_of(after, key)[0]
    assert [known(files.requests[0], secret) for secret in (new, old)] == [True, True]


def example(name: str) -> str:
    """An example in the documentation."""
    page = (ROOT / "docs/api.md").read_text()
    (code,) = re.findall(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    return str(code)


def verify_in_python(folder: Path, secret: str, request: Request) -> bool:
    scope: dict[str, Any] = {}
    exec(example("verify.py"), scope)
    try:
        return bool(scope["verify"](secret, request.headers, request.body)["data"]["jobId"])
    except WebhookVerificationError:
        return False


def verify_in_node(folder: Path, secret: str, request: Request) -> bool:
    if shutil.which("node") is None:
        pytest.skip("there is no Node.js")
    call = f"{example('verify.mjs')}\nverify({json.dumps(secret)}, {json.dumps(headers_of(request))}, process.argv[2]);"
    (folder / "verify.mjs").write_text(call)
    done = subprocess.run(
        ["node", "verify.mjs", request.body.decode()], cwd=folder, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0 or "Error: wrong signature" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("verify", [verify_in_python, verify_in_node])
def test_the_documented_code_accepts_both_secrets_and_rejects_forgeries(
    services: Gateway, files: FileServer, key: Key, tmp_path: Path, verify: Callable[[Path, str, Request], bool]
) -> None:
    services.keys.rotate_webhook_secret(key.record.id)
    ended(services, files.url("/hook"), key_id=key.record.id)
    services.turn()
    (request,) = files.requests
    new, old = secrets_of(services, key)
    assert verify(tmp_path, new, request) and verify(tmp_path, old, request)
    forged = replace(request, body=request.body.replace(b"cancelled", b"completed"))
    assert not verify(tmp_path, new, forged)
    other = webhook_secrets(services.signer, "key_other", None, 0)[0]
    assert not verify(tmp_path, other, request)


# The schedule


def test_a_receiver_that_always_fails_is_tried_ten_times_over_three_days(
    services: Gateway, files: FileServer, key: Key
) -> None:
    files.routes["/hook"] = Reply(500, b"x" * 10_000)
    job, secret = ended(services, files.url("/hook"), key_id=key.record.id), Oracle(secrets_of(services, key)[0])
    pauses = []
    services.turn()
    while (at := webhook_of(services, job).next_at) is not None:
        pauses.append((at - services.clock.now_ms()) / 1000)
        services.clock.advance(at - services.clock.now_ms() - 1)
        services.turn()
        assert len(files.requests) == len(pauses)
        services.clock.advance(1)
        services.turn()
    assert pauses == PAUSES_S
    assert len(set(ids_of(files))) == 1
    assert len({headers_of(request)["webhook-timestamp"] for request in files.requests}) == 10
    after = webhook_of(services, job)
    assert (after.state, after.tries, after.last_status_code) == ("failed", 10, 500)
    for request in files.requests:
        headers = headers_of(request)
        at_second = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        assert secret.sign(headers["webhook-id"], at_second, request.body.decode()) == headers["webhook-signature"]
    services.clock.advance(30 * DAY_S * 1000)
    services.turn()
    assert len(files.requests) == 10


# Receivers that misbehave


def test_a_job_without_a_url_has_no_webhook_and_no_worker_learns_a_url(services: Gateway, files: FileServer) -> None:
    services.add_job(webhook_url=files.url("/secret-hook"))
    job = services.add_job()
    services.jobs.cancel(job.id, job.key_id)
    services.turn()
    assert services.store.webhooks([job.id]) == {}
    assert "webhook" not in services.documents.of(services.jobs.get(job.id, job.key_id))
    assert len(services.provider.inputs) == 1 and "hook" not in json.dumps(services.provider.inputs)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1/hook", "the address is not public"),
        ("{closed}/hook", "no connection, or it broke"),
        ("{receiver}/drop", "no connection, or it broke"),
        ("{receiver}/slow", "no response within 0.3 s"),
        (f"http://{'a' * 64}.example/hook", "it could not be sent"),
    ],
)
def test_a_failed_connection_counts_as_a_try_and_its_reason_is_kept(
    wire: Wire, files: FileServer, monkeypatch: pytest.MonkeyPatch, url: str, error: str
) -> None:
    with file_server() as gone:
        closed = gone.origin
    if url.endswith("/slow"):
        monkeypatch.setattr(sender, "TRY_S", 0.3)
    services = wire(webhook_allow_origins=(files.origin, closed))
    files.routes |= {"/drop": Reply(drop=True), "/slow": Reply(200, pause_s=30)}
    job = ended(services, url.format(closed=closed, receiver=files.origin))
    services.turn()
    after = webhook_of(services, job)
    assert (after.state, after.tries, after.last_status_code, after.last_error) == ("pending", 1, None, error)
    assert after.next_at == services.clock.now_ms() + 5000


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("{receiver}/hook?token=s3cret#fragm3nt", None),
        ("{receiver}/drop?token=s3cret#fragm3nt", "no connection, or it broke"),
        ("{receiver}/elsewhere?token=s3cret#fragm3nt", None),
        ("http://me:passw0rd@10.0.0.1/s3cret?token=s3cret#fragm3nt", "the address is not public"),
        ("http://me:passw0rd\\@example.com/s3cret#fragm3nt", "the address is not public"),
        ("http://me:passw0rd@*.example/s3cret#fragm3nt", "it could not be sent"),
        ("http://me:passw0rd@a..b/s3cret#fragm3nt", "it could not be sent"),
        ("http://me:passw0rd@%00/s3cret#fragm3nt", "it could not be sent"),
    ],
)
def test_no_secret_of_a_url_is_logged_or_shown(
    url: str, said: str | None, services: Gateway, files: FileServer, logged: io.StringIO
) -> None:
    files.routes |= {"/hook": Reply(500, b"s3cret"), "/drop": Reply(drop=True)}
    files.routes["/elsewhere"] = Reply(302, headers={"Location": "http://me:passw0rd@10.0.0.1/s3cret"})
    job = ended(services, url.format(receiver=files.origin))
    services.turn()
    after = webhook_of(services, job)
    assert (after.tries, after.last_error) == (1, said)
    assert "webhook.tried" in logged.getvalue()
    for secret in ("s3cret", "fragm3nt", "passw0rd"):
        assert secret not in logged.getvalue()


@pytest.fixture
def quick() -> Iterator[FileServer]:
    with file_server() as server:
        server.routes["/hook"] = Reply(200)
        yield server


def test_a_slow_receiver_delays_neither_jobs_nor_other_receivers(
    wire: Wire, files: FileServer, quick: FileServer
) -> None:
    services = wire(webhook_allow_origins=(files.origin, quick.origin))
    files.routes["/hook"] = Reply(200, pause_s=60)
    for _ in range(3 * POOL):
        ended(services, files.url("/hook"))
    services.dispatcher.tick()
    services.clock.advance(1)
    late = ended(services, quick.url("/hook"))
    services.add_job()
    while services.dispatcher.tick():
        for step in services.dispatcher._busy:
            step.result()
    eventually(lambda: webhook_of(services, late).state == "succeeded")
    assert len(services.provider.called("submit")) == 1
    assert len(files.requests) <= PER_HOST
    files.closing.set()
    wait_for_webhooks(services)
    assert len(files.requests) == 3 * POOL
    assert len(set(ids_of(files))) == 3 * POOL


def test_many_slow_receivers_of_one_key_do_not_delay_the_webhooks_of_another(
    wire: Wire, files: FileServer, quick: FileServer
) -> None:
    with ExitStack() as opened:
        slow = [opened.enter_context(file_server()) for _ in range(POOL)]
        services = wire(webhook_allow_origins=(*(server.origin for server in slow), quick.origin))
        for server in slow:
            server.routes["/hook"] = Reply(200, pause_s=60)
            for _ in range(2):
                ended(services, server.url("/hook"), key_id="greedy")
        services.dispatcher.tick()
        services.clock.advance(1)
        late = ended(services, quick.url("/hook"), key_id="modest")
        services.dispatcher.tick()
        eventually(lambda: webhook_of(services, late).state == "succeeded")
        assert sum(len(server.requests) for server in slow) <= PER_KEY
        for server in slow:
            server.closing.set()
        wait_for_webhooks(services)


# Leases and crashes


def send_and_die(settings: Settings, now_ms: int) -> None:
    """In another process: send what is due and die before recording it."""
    clock = FixedClock(now_ms)
    services = Gateway.wire(settings, clock=clock, provider={})
    webhooks.tried = lambda *_: os._exit(9)  # type: ignore[assignment]
    services.turn()


def test_a_webhook_is_sent_again_with_the_same_id_after_a_crash(services: Gateway, files: FileServer) -> None:
    job = ended(services, files.url("/hook"))
    for _ in range(2):
        child = PROCESSES.Process(target=send_and_die, args=(services.settings, services.clock.now_ms()))
        child.start()
        child.join(30)
        assert child.exitcode == 9
        services.turn()  # the lease has not expired yet
        services.clock.advance(LEASE_MS)
    assert len(files.requests) == 2
    services.turn()
    assert len(files.requests) == 3
    assert len(set(ids_of(files))) == 1
    after = webhook_of(services, job)
    assert (after.state, after.tries) == ("succeeded", 1)


def test_the_outcome_of_a_stale_sender_is_dropped(services: Gateway, wire: Wire, files: FileServer) -> None:
    other = wire(webhook_allow_origins=(files.origin,))

    def answer(request: Request) -> Reply:
        if len(files.requests) > 1:
            return Reply(200)
        services.clock.advance(LEASE_MS)
        other.turn()
        return Reply(410)

    files.routes["/hook"] = answer
    job = ended(services, files.url("/hook"))
    services.turn()
    after = webhook_of(services, job)
    assert (after.state, after.tries, after.last_status_code) == ("succeeded", 1, 200)
    assert len(set(ids_of(files))) == 1


def test_a_replay_during_a_try_is_not_undone_by_its_end(services: Gateway, files: FileServer) -> None:
    job = ended(services, files.url("/hook"))

    def answer(request: Request) -> Reply:
        if len(files.requests) == 1:
            services.jobs.replay_webhook(job.id, job.key_id)
        return Reply(500)

    files.routes["/hook"] = answer
    services.turn()
    assert webhook_of(services, job).next_at == services.clock.now_ms()
    services.turn()
    assert len(files.requests) == 2
    assert webhook_of(services, job).tries == 1


def test_a_database_that_fails_costs_no_try(
    services: Gateway, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(services, files.url("/hook"))

    def broken(_: str) -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(services.store, "api_key", broken)
        services.turn()
    assert (webhook_of(services, job).tries, files.requests) == (0, [])
    services.clock.advance(LEASE_MS)
    services.turn()
    assert webhook_of(services, job).state == "succeeded"


def test_stop_waits_for_a_moment_only(services: Gateway, files: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "STOP_S", 0.2)
    files.routes["/hook"] = Reply(200, pause_s=60)
    monkeypatch.setattr(sender, "TRY_S", 30)
    job = ended(services, files.url("/hook"))
    services.dispatcher.tick()
    eventually(lambda: files.requests)
    services.dispatcher.close()
    assert webhook_of(services, job).tries == 0, "it is still in progress"
    files.closing.set()
    services.dispatcher._webhooks.settle()
