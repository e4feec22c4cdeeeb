"""`handler.http_worker`: authorization, attempts, the real server."""

from __future__ import annotations

import hmac
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from common import http_connection, http_server
from ffmpeg_ops.engine import landlock, sandbox
from gateway.providers.base import Unavailable
from gateway.providers.worker_client import Credentials, WorkerClient
from handler import http_worker
from handler.http_worker import create_app
from handler.settings import Settings
from scripts.stack import free_port
from tests.handler.conftest import KEY, LONG, TOKEN
from tests.handler.support import Gateway, Job, alive, children, environment, ffmpegs
from tests.servers import PATIENCE_S, STOP_S, FileServer, Reply, eventually
from wire.envelope import ErrorSchema, ResultSchema

COMMAND = [sys.executable, "-m", "handler.http_worker"]
PASS = {"X-Session-Token": TOKEN, "X-API-Key": KEY}
CALLS = [
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/jobs/att_1"),
    ("DELETE", "/jobs/att_1"),
    ("POST", "/video/caption"),
    ("POST", "/video/unknown"),
    ("GET", "/video/caption"),
    ("GET", "/nowhere"),
    ("GET", "/static/x"),
    ("OPTIONS", "/health"),
]


@pytest.fixture(autouse=True)
def gaps_are_found_anew() -> Iterator[None]:
    sandbox.gaps.cache_clear()
    yield
    sandbox.gaps.cache_clear()


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions["runs"].shut_down()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    client = app.test_client()
    client.environ_base.update({"HTTP_X_SESSION_TOKEN": TOKEN, "HTTP_X_API_KEY": KEY})
    return client


@pytest.fixture
def endless(img2vid: Job, files: FileServer, gateway: Gateway) -> Callable[[str], dict[str, Any]]:
    """Inputs that wait for their asset until they are stopped, without events."""
    files.routes["/endless"] = Reply(body=b"x" * 10_000, trickle_s=0.1)

    def make(attempt_id: str = "att_1") -> dict[str, Any]:
        return img2vid(url_image=files.url("/endless"), delivery=gateway.delivery(attempt_id=attempt_id, events=None))

    return make


def _document(client: FlaskClient, attempt_id: str) -> dict[str, Any]:
    response = client.get(f"/jobs/{attempt_id}")
    assert response.status_code == 200
    document: dict[str, Any] = response.get_json()
    return document


def _ended(client: FlaskClient, attempt_id: str, seconds: float = 20.0) -> dict[str, Any]:
    eventually(lambda: _document(client, attempt_id)["status"] != "running", seconds)
    return _document(client, attempt_id)


# ---- authorization


def _call(
    settings: Settings, headers: dict[str, str], address: str | None, method: str = "GET", path: str = "/health"
) -> TestResponse:
    client = create_app(settings, fingerprint="f" * 64).test_client()
    return client.open(path, method=method, headers=headers, environ_overrides={"REMOTE_ADDR": address})


def _statuses(settings: Settings, headers: dict[str, str], address: str | None) -> set[int]:
    """The statuses of every route and of some that do not exist. No response may hold a secret."""
    responses = [_call(settings, headers, address, method, path) for method, path in CALLS]
    assert not any(secret in response.text for secret in (TOKEN, KEY) for response in responses)
    return {response.status_code for response in responses}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Session-Token": TOKEN},
        {"X-API-Key": KEY},
        {"X-Session-Token": KEY, "X-API-Key": TOKEN},
        {"X-Session-Token": TOKEN[:-1], "X-API-Key": KEY},
        {"X-Session-Token": "é" * 16, "X-API-Key": KEY},
        {"X-Session-Token": TOKEN, "Authorization": f"Bearer {KEY}"},
    ],
    ids=lambda headers: ",".join(headers) or "none",
)
def test_a_call_needs_both_secrets(settings: Settings, headers: dict[str, str]) -> None:
    assert _statuses(settings, headers, "127.0.0.1") == {401}


@pytest.mark.parametrize("address", ["127.0.0.2", "8.8.8.8", "::1", "", "not an address", None])
def test_a_call_needs_an_allowed_address(settings: Settings, address: str | None) -> None:
    assert _statuses(settings, PASS, address) == {403}


@pytest.mark.parametrize(
    ("unset", "headers"),
    [
        ({"session_token": None}, PASS),
        ({"session_token": None}, {"X-Session-Token": "None", "X-API-Key": KEY}),
        ({"session_token": ""}, {"X-Session-Token": "", "X-API-Key": KEY}),
        ({"worker_api_key": None}, PASS),
        ({"worker_api_key": ""}, {"X-Session-Token": TOKEN, "X-API-Key": ""}),
        ({"allowed_ips": None}, PASS),
        ({"allowed_ips": ("",)}, PASS),
        ({"allowed_ips": ("localhost",)}, PASS),
    ],
)
def test_a_setting_that_is_not_set_matches_no_caller(
    settings: Settings, unset: dict[str, Any], headers: dict[str, str]
) -> None:
    assert _statuses(replace(settings, **unset), headers, "127.0.0.1") <= {401, 403}


def test_ready_says_what_the_sandbox_does_not_hold(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = client.get("/ready", headers=PASS).get_json()
    assert shown == {"status": "ready", "sandbox": {"whole": not sandbox.gaps(), "gaps": list(sandbox.gaps())}}
    sandbox.gaps.cache_clear()
    monkeypatch.setattr(landlock, "version", lambda: 0)
    shown = client.get("/ready", headers=PASS).get_json()
    assert (shown["status"], shown["sandbox"]["whole"]) == ("ready", False)
    assert any("no Landlock" in gap for gap in shown["sandbox"]["gaps"])


@pytest.mark.parametrize(
    ("allowed", "address", "status"),
    [
        (("10.0.0.0/8",), "10.255.0.1", 200),
        (("10.0.0.0/8",), "11.0.0.1", 403),
        (("192.0.2.7", "10.0.0.0/8"), "192.0.2.7", 200),
        (("2001:db8::/32",), "2001:db9::1", 403),
        (("2001:db8::1",), "2001:db8:0:0:0:0:0:1", 200),
        (("::1",), "127.0.0.1", 403),
        (("127.0.0.1",), "192.0.2.1", 403),
    ],
)
def test_addresses_and_networks_of_both_families_whatever_address_is_forwarded(
    settings: Settings, allowed: tuple[str, ...], address: str, status: int
) -> None:
    forwarded = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
    for more in ({}, forwarded):
        response = _call(replace(settings, allowed_ips=allowed), {**PASS, **more}, address)
        assert response.status_code == status


def test_a_refused_call_starts_nothing(settings: Settings, img2vid: Job, files: FileServer) -> None:
    app = create_app(settings)
    response = app.test_client().post("/video/img2vid", json=img2vid(), headers={"X-API-Key": KEY})
    assert response.status_code == 401
    assert app.extensions["runs"].active() == 0
    assert files.requests == []


def test_a_caller_that_knows_both_secrets_learns_its_address(settings: Settings) -> None:
    assert _call(settings, PASS, "192.0.2.1").get_json()["peer"] == "192.0.2.1"
    assert "peer" not in _call(settings, {"X-Session-Token": TOKEN}, "192.0.2.1").get_json()


# ---- identity


def _identity(settings: Settings, query: str, method: str = "GET") -> TestResponse:
    return _call(settings, {}, "192.0.2.1", method, f"/identity{query}")


def test_any_caller_gets_the_proof_of_the_certificate(settings: Settings) -> None:
    nonce = "0123456789abcdef"
    response = _identity(settings, f"?nonce={nonce}")
    message = f"reelay-worker-identity\n{nonce}\n{'f' * 64}".encode()
    proof = hmac.new(TOKEN.encode(), message, "sha256").hexdigest()
    assert (response.status_code, response.get_json()) == (200, {"fingerprint": "f" * 64, "proof": proof})


@pytest.mark.parametrize("nonce", ["", "0123456789abcde", "0" * 65, "A" * 16, "0" * 16 + "%0A"])
def test_an_invalid_nonce_gets_no_proof(settings: Settings, nonce: str) -> None:
    response = _identity(settings, f"?nonce={nonce}")
    assert (response.status_code, response.get_json()["code"]) == (400, "invalid_nonce")


def test_without_certificate_or_token_there_is_no_proof(settings: Settings) -> None:
    query = "?nonce=" + "0" * 32
    assert create_app(settings).test_client().get(f"/identity{query}").status_code == 404
    assert _identity(replace(settings, session_token=None), query).status_code == 404
    assert {_identity(settings, query, method).status_code for method in ("HEAD", "POST")} == {401}


def test_only_authorized_calls_are_heartbeats(settings: Settings) -> None:
    beats: list[int] = []
    client = create_app(settings, fingerprint="f" * 64, heartbeat=lambda: beats.append(1)).test_client()

    def beat(headers: dict[str, str], address: str = "127.0.0.1", path: str = "/health") -> bool:
        beats.clear()
        client.get(path, headers=headers, environ_overrides={"REMOTE_ADDR": address})
        return bool(beats)

    assert beat(PASS) and beat(PASS, path="/jobs/att_1") and beat(PASS, path="/nowhere")
    assert not beat({})
    assert not beat({}, path="/identity?nonce=" + "0" * 32)
    assert not beat({**PASS, "X-Session-Token": "x" * 32})
    assert not beat({**PASS, "X-API-Key": "x" * 32})
    assert not beat(PASS, "192.0.2.1")


# ---- attempts


def test_an_attempt_runs_once_and_shows_its_result(client: FlaskClient, caption: Job, gateway: Gateway) -> None:
    raw = caption(delivery=gateway.delivery())
    for _ in range(2):
        response = client.post("/video/caption", json=raw)
        assert (response.status_code, response.get_json()["attemptId"]) == (202, "att_1")
    document = _ended(client, "att_1")
    assert (document["status"], document["progress"]) == ("completed", 1.0)
    assert "duration_s" in ResultSchema().load(document["result"])["stats"]
    assert client.post("/video/caption", json=raw).get_json() == document
    assert client.delete("/jobs/att_1").get_json() == document, "a late DELETE changes nothing"
    assert gateway.milestones == ["started", "completed"] and len(gateway.puts) == 1


def test_a_failed_attempt_shows_its_error(
    client: FlaskClient, caption: Job, gateway: Gateway, files: FileServer
) -> None:
    client.post("/video/caption", json=caption(url_video=files.url("/none"), delivery=gateway.delivery()))
    document = _ended(client, "att_1")
    assert document["status"] == "failed"
    assert document["error"]["code"] == "asset_not_found"
    assert not ErrorSchema().load(document["error"]).retryable
    assert "result" not in document


def test_without_delivery_the_worker_names_the_attempt(client: FlaskClient, img2vid: Job) -> None:
    attempt_id = client.post("/video/img2vid", json=img2vid()).get_json()["attemptId"]
    assert Path(_ended(client, attempt_id)["result"]["outputs"]["video"]["path"]).exists()


def test_an_unknown_attempt_or_route_is_a_problem_with_a_code(client: FlaskClient) -> None:
    for response in (client.get("/jobs/att_9"), client.delete("/jobs/att_9")):
        assert (response.status_code, response.get_json()["code"]) == (404, "unknown_attempt")
    response = client.get("/nowhere")
    assert response.mimetype == "application/problem+json"
    assert response.get_json() == {"type": "about:blank", "title": "Not Found", "status": 404, "code": "not_found"}


def test_an_invalid_body_is_refused(client: FlaskClient) -> None:
    for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"operation": "caption"}', b" " * 8_000_001):
        response = client.post("/video/caption", data=body, content_type="application/json")
        assert response.status_code == (413 if len(body) > 8_000_000 else 400), body[:20]
        assert response.mimetype == "application/problem+json"


def test_content_type_and_operation_must_agree_with_the_body(
    client: FlaskClient, img2vid: Job, files: FileServer
) -> None:
    raw = img2vid()
    assert client.post("/video/img2vid", data=json.dumps(raw), content_type="text/plain").status_code == 415
    response = client.post("/video/caption", json=raw)
    assert (response.status_code, response.get_json()["code"]) == (400, "invalid_params")
    assert files.requests == []


@pytest.mark.parametrize("change", [{"operation": "levitate"}, {"blur": 1}, {"duration": -1}])
def test_what_this_worker_cannot_run_is_refused_before_it_is_claimed(
    client: FlaskClient, img2vid: Job, gateway: Gateway, change: dict[str, Any]
) -> None:
    raw = img2vid(**change, delivery=gateway.delivery())
    response = client.post(f"/video/{raw['operation']}", json=raw)
    assert (response.status_code, response.get_json()["code"]) == (400, "worker_outdated")
    assert gateway.events == []
    assert client.get("/jobs/att_1").status_code == 404


def test_slots_are_counted_and_released(settings: Settings, endless: Callable[[str], dict[str, Any]]) -> None:
    app = create_app(replace(settings, worker_concurrency=2))
    client = app.test_client()

    def submit(attempt_id: str) -> TestResponse:
        return client.post("/video/img2vid", json=endless(attempt_id), headers=PASS)

    assert [submit(f"att_{i}").status_code for i in (0, 1, 0)] == [202] * 3
    busy = submit("att_2")
    assert (busy.status_code, busy.get_json()["code"]) == (503, "worker_busy")
    assert int(busy.headers["Retry-After"]) >= 1
    assert client.get("/jobs/att_2", headers=PASS).status_code == 404
    assert client.get("/health", headers=PASS).get_json()["slots"] == {"total": 2, "busy": 2}
    app.extensions["runs"].shut_down()
    assert client.get("/health", headers=PASS).get_json()["slots"] == {"total": 2, "busy": 0}
    assert submit("att_9").status_code == 202
    app.extensions["runs"].shut_down()


# ---- stopping


def test_delete_stops_within_two_seconds(client: FlaskClient, img2vid: Job, gateway: Gateway) -> None:
    client.post("/video/img2vid", json=img2vid(**LONG, delivery=gateway.delivery()))
    eventually(lambda: _document(client, "att_1")["progress"] > 0.05)
    assert client.delete("/jobs/att_1").status_code == 200
    document = _ended(client, "att_1", STOP_S)
    assert (document["status"], document["error"]["code"]) == ("cancelled", "cancelled")
    assert ffmpegs() == []
    assert gateway.of_type("failed") == []


def test_an_attempt_that_the_gateway_gave_up_is_cancelled(
    client: FlaskClient, endless: Callable[[str], dict[str, Any]], gateway: Gateway
) -> None:
    gateway.on_event = lambda event: Reply(200 if event["type"] == "started" else 409, b"{}")
    client.post("/video/img2vid", json={**endless("att_1"), "delivery": gateway.delivery()})
    document = _ended(client, "att_1")
    assert (document["status"], document["error"]["code"]) == ("cancelled", "superseded")


# ---- the real server


@dataclass
class Served:
    """A worker process; `client` is its gateway's."""

    process: subprocess.Popen[str]
    port: int
    client: WorkerClient

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        return requests.request(method, url, timeout=STOP_S, **{"headers": PASS, **kwargs})

    def connect(self, **more: Any) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S, **more)

    def healthy(self) -> bool:
        assert self.process.poll() is None, "the server did not start"
        try:
            return self.client.health().slots > 0
        except Unavailable:
            return False

    @property
    def child(self) -> int:
        """gunicorn's one worker process."""
        return next(iter(children(self.process.pid)), 0)


@contextmanager
def _serve(settings: Settings, folder: Path, *, tls: bool = False) -> Iterator[Served]:
    """A worker that lets in 127.0.0.1 alone."""
    port = free_port()
    given = {"SESSION_TOKEN": TOKEN, "WORKER_API_KEY": KEY, "ALLOWED_IPS": "127.0.0.1", "WORKER_PORT": str(port)}
    env = environment(settings, **given, WORKER_TLS=str(tls).lower())
    client = WorkerClient(f"http{'s' * tls}://127.0.0.1:{port}", [Credentials(TOKEN, KEY)], tls=tls)
    with subprocess.Popen(COMMAND, cwd=folder, env=env, stderr=subprocess.DEVNULL, text=True) as process:
        served = Served(process, port, client)
        try:
            eventually(served.healthy)
            yield served
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()


@pytest.fixture
def served(settings: Settings, tmp_path: Path) -> Iterator[Served]:
    with _serve(settings, tmp_path) as served:
        yield served


def _start_long(served: Served, img2vid: Job, gateway: Gateway) -> int:
    """Start an endless encode; return the process id of its FFmpeg."""
    raw = img2vid(**LONG, delivery=gateway.delivery())
    assert served.call("POST", "/video/img2vid", json=raw).status_code == 202
    eventually(lambda: served.call("GET", "/jobs/att_1").json()["progress"] > 0.05)
    [pid] = ffmpegs(served.child)
    return pid


def test_sigterm_stops_the_running_attempt_and_ends_well(
    served: Served, img2vid: Job, gateway: Gateway, settings: Settings
) -> None:
    ffmpeg = _start_long(served, img2vid, gateway)
    served.process.terminate()
    assert served.process.wait(PATIENCE_S) == 0
    assert not alive(ffmpeg)
    assert gateway.events[-1]["error"]["code"] == "worker_lost"
    assert list(settings.work_dir.glob("attempt-*")) == []


@pytest.mark.slow
def test_a_killed_worker_takes_ffmpeg_with_it_and_the_next_one_cleans_up(
    served: Served, img2vid: Job, gateway: Gateway, settings: Settings
) -> None:
    ffmpeg, killed = _start_long(served, img2vid, gateway), served.child
    assert len(list(settings.work_dir.glob("attempt-*"))) == 1
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: not alive(ffmpeg), STOP_S)
    eventually(lambda: served.child not in {0, killed} and served.healthy())
    eventually(lambda: list(settings.work_dir.glob("attempt-*")) == [])
    assert served.call("GET", "/jobs/att_1").status_code == 404


def test_the_real_server_refuses_large_bodies_and_unsent_ones_block_no_other_call(served: Served) -> None:
    assert served.call("GET", "/health").json()["peer"] == "127.0.0.1"
    chunks = (b"x" * 10_000 for _ in range(200))
    headers = {**PASS, "Content-Type": "application/json"}
    assert served.call("POST", "/video/caption", data=chunks, headers=headers).status_code in {400, 413}
    with ExitStack() as stack:
        for framing in ("Content-Length: 900000", "Transfer-Encoding: chunked") * http_worker.THREADS:
            connection = stack.enter_context(served.connect())
            connection.sendall(f"POST /video/caption HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        assert served.call("GET", "/health").status_code == 200  # within STOP_S
        assert served.call("GET", "/health", headers={}).status_code == 401


@pytest.mark.slow
def test_behind_tls_unauthorized_calls_are_refused_unread_and_block_no_other(
    settings: Settings, tmp_path: Path
) -> None:
    with _serve(settings, tmp_path, tls=True) as served, ExitStack() as stack:
        for _ in range(http_worker.EXPOSED_THREADS // 2):
            stack.enter_context(served.connect()).sendall(b"\x16")  # the begin of a handshake
        plain = stack.enter_context(served.connect())
        plain.sendall(f"GET /health HTTP/1.1\r\nHost: x\r\nX-Session-Token: {TOKEN}\r\n\r\n".encode())
        for framing in ("Content-Length: 900000", "Transfer-Encoding: chunked") * (http_worker.EXPOSED_THREADS // 2):
            secure = stack.enter_context(_secured(served.connect()))
            assert secure.version() == "TLSv1.3"
            response = _asked(secure, f"POST /video/caption HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n")
            assert response.status == 401 and b"unauthorized" in response.read()
        assert _responds_in_time(served.client)
        assert b"200" not in plain.recv(1000)


@pytest.mark.slow
def test_no_number_of_other_clients_delays_the_gateway(settings: Settings, tmp_path: Path) -> None:
    elsewhere = {"source_address": ("127.0.0.2", 0)}
    with _serve(settings, tmp_path, tls=True) as served, ExitStack() as stack:
        with served.connect(**elsewhere) as alone, _secured(alone) as secure:
            secrets = f"X-Session-Token: {TOKEN}\r\nX-API-Key: {KEY}\r\n"
            response = _asked(secure, f"GET /health HTTP/1.1\r\nHost: x\r\n{secrets}\r\n")
            assert json.loads(response.read())["peer"] == "127.0.0.2", "a single caller learns why it is refused"
        idle = [stack.enter_context(served.connect(**elsewhere)) for _ in range(200)]
        for stalled in idle[::2]:
            with suppress(OSError):  # closed already
                stalled.sendall(b"\x16")
        for _ in range(3):
            assert _responds_in_time(served.client)
        eventually(lambda: sum(map(_hung_up, idle)) >= 200 - 2 * http_server.UNEXPECTED)


def _secured(connection: socket.socket) -> ssl.SSLSocket:
    return ssl._create_unverified_context().wrap_socket(connection)


def _asked(connection: socket.socket, request: str) -> http.client.HTTPResponse:
    connection.sendall(request.encode())
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def _responds_in_time(client: WorkerClient) -> bool:
    """Whether the worker responds before the time limit of other addresses, which a blocked call would wait for."""
    assert STOP_S < http_connection.HANDSHAKE_S
    started = time.monotonic()
    assert client.health().slots == 1
    return time.monotonic() - started < STOP_S


def _hung_up(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"SESSION_TOKEN": TOKEN}, ["WORKER_API_KEY", "ALLOWED_IPS"]),
        (
            {"WORKER_API_KEY": "short", "ALLOWED_IPS": "127.0.0.1,here,10.0.0.1/8"},
            ["WORKER_API_KEY", "'here'", "'10.0.0.1/8'"],
        ),
    ],
)
def test_wrong_settings_end_it_and_are_all_named(
    settings: Settings, tmp_path: Path, given: dict[str, str], named: list[str]
) -> None:
    env = environment(settings, **given)
    done = subprocess.run(COMMAND, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode != 0
    assert all(name in done.stderr for name in named)
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stderr


def test_the_serving_process_adopts_what_its_commands_leave_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    monkeypatch.setattr(http_worker.orphans, "adopt", lambda: called.append("adopt"))
    monkeypatch.setattr(http_worker, "warm_up", lambda: None)
    http_worker._serving_app(settings, None, None).extensions["runs"].shut_down()
    assert called == ["adopt"]
