"""What the client of an HTTP worker makes of every response, and of none."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from gateway.providers import http
from gateway.providers.base import Accepted, Ambiguous, NotYet, ProviderError, Refused, Unavailable
from gateway.providers.worker_client import Credentials, WorkerClient
from tests.gateway.providers.conftest import attempt_named, job_input
from tests.servers import PATIENCE_S, FileServer, RawServer, Reply, Request
from wire.errors import JobFault, WorkerFault

ATTEMPT = attempt_named()
INPUT = job_input(ATTEMPT)
SUBMIT, POLL = "/video/caption", f"/jobs/{ATTEMPT.id}"
GARBAGE = [b"", b"<html>", b"[]", b"null", b'"x"', b"\xff\xfe", b"{", b"{}", b"[" * 100_000, b'{"a": NaN}']


def client_of(files: FileServer) -> WorkerClient:
    return WorkerClient(files.origin + "/", [Credentials("token", "key")])


def reply(status: int, /, **body: object) -> Reply:
    return Reply(status, json.dumps(body).encode())


def submit(files: FileServer, answer: Reply) -> object:
    """What a submit returns or raises."""
    files.routes[SUBMIT] = answer
    try:
        return client_of(files).submit(INPUT)
    except ProviderError as error:
        return error


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(http, "ANSWER_S", 0.3)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(202, attemptId="a1"), Accepted),
        (reply(503, code="worker_busy"), NotYet),
        (Reply(503, b"<html>"), NotYet),
        (reply(401, title="wrong token"), Unavailable),
        (reply(403, title="wrong address"), Unavailable),
        (reply(400, code="worker_outdated", title="old"), Unavailable),
        (reply(400, code="invalid_params", title="bad"), Refused),
        (reply(400, code="something_else"), Ambiguous),
        (reply(400, code=["worker_outdated"]), Ambiguous),
        (reply(200, attemptId="a1"), Ambiguous),
        (reply(202), Ambiguous),
        (reply(202, attemptId=5), Ambiguous),
        (reply(404), Unavailable),
        (reply(413), Unavailable),
        (reply(500, code="invalid_params"), Ambiguous),
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), Ambiguous),
        (Reply(302, b"", {"Location": "http://["}), Ambiguous),
        (Reply(drop=True), Ambiguous),
        (Reply(202, b'{"attempt', content_length=100), Ambiguous),
    ],
)
def test_the_answer_to_a_submit_is_translated(files: FileServer, answer: Reply, expected: type[object]) -> None:
    assert type(submit(files, answer)) is expected


@pytest.mark.parametrize("status", [200, 202, 400, 418, 500, 502])
@pytest.mark.parametrize("body", GARBAGE)
def test_garbage_after_a_submit_is_ambiguous(files: FileServer, status: int, body: bytes) -> None:
    assert type(submit(files, Reply(status, body))) is Ambiguous


def test_reasons_are_handed_on(files: FileServer) -> None:
    assert submit(files, reply(202, attemptId="a1")) == Accepted("a1")
    refused = submit(files, reply(400, code="invalid_params", title="duration: too long"))
    assert isinstance(refused, Refused)
    assert (refused.fault.code, refused.fault.message) == ("invalid_params", "duration: too long")
    assert "wrong token" in str(submit(files, reply(401, title="wrong token")))


def test_the_credentials_go_with_every_call_and_the_input_unchanged(files: FileServer) -> None:
    submit(files, reply(202, attemptId="a1"))
    client_of(files).cancel(ATTEMPT.id)
    assert [(r.method, r.path) for r in files.requests] == [("POST", SUBMIT), ("DELETE", POLL)]
    assert files.requests[0].body.decode() == INPUT.text
    assert files.requests[0].headers["Content-Type"] == "application/json"
    for request in files.requests:
        assert (request.headers["X-Session-Token"], request.headers["X-API-Key"]) == ("token", "key")


def test_a_redirect_is_not_followed(files: FileServer) -> None:
    submit(files, Reply(307, b"", {"Location": files.url("/elsewhere")}))
    assert [request.path for request in files.requests] == [SUBMIT]


def test_a_proxy_of_the_environment_sees_nothing(files: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert submit(files, reply(202, attemptId="a1")) == Accepted("a1")


# No connection, or no response


@pytest.mark.parametrize("failure", [None, TimeoutError("timed out"), socket.gaierror(socket.EAI_NONAME, "unknown")])
def test_a_connection_that_does_not_come_about_is_not_yet(
    monkeypatch: pytest.MonkeyPatch, failure: OSError | None
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure or AssertionError

    with socket.socket() as bound:  # bound and not listening: no other process gets the port
        bound.bind(("127.0.0.1", 0))
        if failure is not None:
            name = "getaddrinfo" if isinstance(failure, socket.gaierror) else "create_connection"
            monkeypatch.setattr(socket, name, fail)
            monkeypatch.setattr(socket.socket, "connect", fail)
        client = WorkerClient(f"http://127.0.0.1:{bound.getsockname()[1]}", [Credentials("t", "k")])
        assert isinstance(client.submit(INPUT), NotYet)
        for call in (client.poll, client.cancel):
            with pytest.raises(Unavailable):
                call(ATTEMPT.id)


def test_silence_after_a_submit_is_ambiguous(files: FileServer, impatient: None) -> None:
    assert type(submit(files, Reply(202, b'{"attemptId": "a1"}', pause_s=30))) is Ambiguous


def test_headers_that_never_end_meet_the_read_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 0.3)
    with closing(RawServer(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, pause_s=0.02)) as server:
        with pytest.raises(Unavailable):
            WorkerClient(server.origin, [Credentials("t", "k")]).poll(ATTEMPT.id)
        assert server.left.wait(PATIENCE_S), "it hangs up while bytes still arrive"


def test_an_answer_without_end_is_not_read_to_the_end(files: FileServer) -> None:
    endless = Reply(202, b" " * 3_000_000)
    assert type(submit(files, endless)) is Ambiguous
    files.routes[POLL] = endless
    with pytest.raises(Unavailable):
        client_of(files).poll(ATTEMPT.id)


# Polls


@pytest.mark.parametrize(("retryable", "expected"), [(True, WorkerFault), (False, JobFault)])
def test_an_error_of_a_newer_worker_is_classed_by_what_it_says(
    files: FileServer, retryable: bool, expected: type[Exception]
) -> None:
    error = {"code": "error_of_tomorrow", "message": "m", "retryable": retryable}
    files.routes[POLL] = reply(200, status="failed", error=error)
    found = client_of(files).poll(ATTEMPT.id).error
    assert isinstance(found, expected)
    assert found.code == "error_of_tomorrow"


NONSENSE = [
    *({"status": status} for status in ("sleeping", None, ["running"], "running", "completed", "failed")),
    *(
        {"status": "running", "progress": wrong}
        for wrong in ("half", None, float("nan"), float("inf"), -1, 1.5, 10**400)
    ),
    *(
        {"status": "completed", "result": wrong}
        for wrong in (None, {}, {"stats": 5}, {"stats": {"size_bytes": "many"}})
    ),
    {"status": "failed", "error": "x"},
    {"status": "failed", "error": {"code": "Not A Code", "message": "m", "retryable": True}},
]


@pytest.mark.parametrize("body", NONSENSE, ids=str)
def test_nonsense_is_unavailable(files: FileServer, body: dict[str, object]) -> None:
    files.routes[POLL] = reply(200, **body)
    with pytest.raises(Unavailable):
        client_of(files).poll(ATTEMPT.id)


@pytest.mark.parametrize("answer", [*(Reply(200, raw) for raw in GARBAGE), Reply(500), Reply(302), Reply(drop=True)])
def test_garbage_is_unavailable(files: FileServer, answer: Reply) -> None:
    files.routes[POLL] = answer
    with pytest.raises(Unavailable):
        client_of(files).poll(ATTEMPT.id)


@pytest.mark.parametrize(("status", "quiet"), [(200, True), (404, True), (401, False), (500, False), (302, False)])
def test_a_cancel_is_heard_or_unavailable(files: FileServer, status: int, quiet: bool) -> None:
    files.routes[POLL] = Reply(status)
    if quiet:
        client_of(files).cancel(ATTEMPT.id)
    else:
        with pytest.raises(Unavailable):
            client_of(files).cancel(ATTEMPT.id)


# Broken at every point

WHOLE = b'HTTP/1.1 202 ACCEPTED\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{"attemptId": "a"}'
BROKEN = [
    *(WHOLE[:n] for n in range(0, len(WHOLE) - 1, 4)),
    b"\x00" * 200,
    b"garbage\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/9.9 202 x\r\n\r\n{}",
    b"HTTP/1.1 202 " + b"x" * 70_000,
    b"HTTP/1.1 202 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 202 OK\r\nContent-Length: 5, 6\r\n\r\nabc",
    b"HTTP/1.1 202 OK\r\nContent-Length: -1\r\n\r\nabc",
    b"HTTP/1.1 202 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    b"HTTP/1.1 202 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    b"HTTP/1.1 202 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 302 OK\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 OK\r\nLocation: \xff\xfe:\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 OK\r\nLocation: http://a:b:c/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 202 OK\r\nSet-Cookie: \xff=\xff; expires=never\r\nContent-Length: 0\r\n\r\n",
]


CALLS: dict[str, tuple[Callable[[WorkerClient], object], type[Exception]]] = {
    "submit": (lambda client: client.submit(INPUT), Ambiguous),
    "poll": (lambda client: client.poll(ATTEMPT.id), Unavailable),
    "cancel": (lambda client: client.cancel(ATTEMPT.id), Unavailable),
    "health": (lambda client: client.health(), Unavailable),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_broken_answer_lets_a_foreign_exception_out(name: str, impatient: None) -> None:
    call, expected = CALLS[name]
    for answer in BROKEN:
        with closing(RawServer(answer)) as server, pytest.raises(expected):
            call(WorkerClient(server.origin, [Credentials("t", "k")]))


def test_after_a_rotation_a_worker_is_called_with_the_secrets_that_it_has(files: FileServer) -> None:
    """A worker that began before the rotation, and then restarts with the new secrets."""
    old, new = Credentials("old token", "old key"), Credentials("new token", "new key")
    has = old

    def answer(request: Request) -> Reply:
        theirs = Credentials(request.headers["X-Session-Token"], request.headers["X-API-Key"])
        return reply(202, attemptId="a1") if theirs == has else reply(401, title="wrong token")

    files.routes[SUBMIT] = answer
    client = WorkerClient(files.origin, [new, old])
    assert isinstance(client.submit(INPUT), Accepted)
    files.requests.clear()
    assert isinstance(client.submit(INPUT), Accepted)
    assert len(files.requests) == 1, "what it accepted is tried first"
    has = new
    assert isinstance(client.submit(INPUT), Accepted)
    has = Credentials("foreign token", "foreign key")
    with pytest.raises(Unavailable, match="refuses this gateway"):
        client.submit(INPUT)
