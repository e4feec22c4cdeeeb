"""A real gunicorn: slow clients, clients that go away, unread bodies and thread limits."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from common.http_server import AWAY
from gateway.__main__ import STOP_S
from gateway.dispatch.delivery import EVENTS_PURPOSE
from tests.gateway.api.conftest import CAPTION
from tests.gateway.api.live import API_KEY, MAX_ASSET_BYTES, THREADS, TRANSFERS, WAITING, Live, live, read_reply
from tests.gateway.conftest import CLAIM
from tests.outputs import video_key
from tests.servers import eventually
from wire.errors import AssetNotFound

BIG = 24_000_000
# Far less than stalled clients or waiting requests would take: a minute.
QUICK_S = 15.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("gateway") / "data", look_s=3600) as running:
        yield running


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes connections at the end of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def big_url(server: Live) -> str:
    """The URL of an uploaded file of BIG bytes."""
    response = server.call("POST", "/files", data=b"ID3" + os.urandom(BIG - 3))
    assert response.status_code == 201
    return str(response.json()["url"])


@pytest.fixture
def hold_waiting(server: Live) -> Iterator[Callable[[], list[Future[requests.Response]]]]:
    """Holds all waiting threads; the jobs are cancelled at the end."""
    jobs: list[str] = []
    with ThreadPoolExecutor(WAITING) as pool:

        def wait_for(job: str) -> requests.Response:
            while "Preference-Applied" not in (answer := server.call("GET", f"/jobs/{job}?wait=60")).headers:
                pass  # `is_full` held the thread
            return answer

        def is_full() -> bool:
            return "Preference-Applied" not in server.call("GET", f"/jobs/{jobs[-1]}?wait=1").headers

        def hold() -> list[Future[requests.Response]]:
            jobs.extend(server.claimed_job()[0].id for _ in range(WAITING))
            waiting = [pool.submit(wait_for, job) for job in jobs]
            eventually(is_full)
            assert not any(future.done() for future in waiting)
            return waiting

        yield hold
        for job in jobs:
            server.call("DELETE", f"/jobs/{job}")


def hold_transfers(server: Live, stack: ExitStack) -> list[socket.socket]:
    """Hold all transfer threads by uploads that stop in the middle."""
    head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 1000000"
    held: list[socket.socket] = []

    def one_more() -> bool:
        connection = stack.enter_context(server.half_sent(head))
        refused, _, _ = select.select([connection], [], [], 0.2)
        held.extend([] if refused else [connection])
        return len(held) == TRANSFERS

    eventually(one_more)
    assert server.call("POST", "/files", data=b"x").status_code == 503
    return held


def whole_files(server: Live) -> set[Path]:
    return {path for path in server.files() if not path.name.startswith(".part-")}


def reset(connection: socket.socket) -> None:
    """Go away without a word, as a client does whose machine is switched off."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# The key is checked before the body is read


@pytest.mark.parametrize(
    "call", ["POST /files", "POST /video/caption", "PUT /x", "DELETE /jobs/x", "GET /jobs", "PATCH /", "POST /events/x"]
)
@pytest.mark.parametrize("framing", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
def test_without_a_key_no_body_is_read(server: Live, stack: ExitStack, call: str, framing: str) -> None:
    started = time.monotonic()
    body = b"5\r\nhello\r\n" if "chunked" in framing else b"hello"
    head = f"{call} HTTP/1.1\nContent-Type: application/json\n{framing}"
    reply = read_reply(stack.enter_context(server.half_sent(head, body)))
    assert (reply.status, reply.closed) == (401, True)
    assert time.monotonic() - started < QUICK_S


def test_incomplete_bodies_without_a_key_hold_no_thread(server: Live, stack: ExitStack) -> None:
    for _ in range(THREADS * 3):
        stack.enter_context(server.half_sent("DELETE /jobs/x HTTP/1.1\nContent-Length: 100000000"))
        stack.enter_context(server.half_sent("POST /files HTTP/1.1\nContent-Length: 100000000"))
        stack.enter_context(server.half_sent("GET /health HTTP/1.1\nContent-Length: 100000000"))
    assert server.health_s() < QUICK_S
    assert server.call("POST", "/video/caption", json=CAPTION).status_code == 202


def test_a_refused_upload_is_not_read(server: Live, stack: ExitStack) -> None:
    refusals = {
        f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: {MAX_ASSET_BYTES + 1}": 413,
        f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nTransfer-Encoding: chunked": 411,
        f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 9999\nContent-Type: multipart/mixed": 415,
        f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 9999\nContent-Type: multipart/form-data": 400,
        f"POST /nothing HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 9999": 404,
        f"PUT /jobs HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 9999": 405,
        f"POST /video/caption HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 9999\nContent-Type: text/plain": 415,
        "PUT /files/outputs/x?signature=y HTTP/1.1\nContent-Length: 9999": 403,
    }
    for head, status in refusals.items():
        reply = read_reply(stack.enter_context(server.half_sent(head, b"")))
        assert (reply.status, reply.closed) == (status, True), head


SMUGGLED = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("call", ["POST /events/x", "GET /jobs", "PUT /files/x?signature=y", "POST /video/caption"])
def test_a_body_after_its_refusal_is_not_taken_for_a_request(server: Live, stack: ExitStack, call: str) -> None:
    """Behind a proxy that keeps connections, the response would go to another client."""
    head = f"{call} HTTP/1.1\nContent-Type: application/json\nContent-Length: {len(SMUGGLED)}"
    connection = stack.enter_context(server.half_sent(head, b""))
    reply = b""
    while b"}" not in reply:
        reply += connection.recv(65536)
    assert reply.split()[1] in {b"401", b"403"}
    assert b"\r\nConnection: close\r\n" in reply
    with suppress(OSError):  # already closed
        connection.sendall(SMUGGLED)
        assert connection.recv(65536) == b""


def test_a_connection_is_kept_when_the_body_was_read(server: Live) -> None:
    refused = server.call("POST", "/video/caption", key="wrong", data=b"x" * 30_000)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized"), "closed, not reset"
    with requests.Session() as session:
        session.headers["X-API-Key"] = API_KEY
        url = server.origin
        for response in (
            session.get(f"{url}/jobs/x", timeout=10),
            session.get(f"{url}/health", timeout=10),
            session.post(f"{url}/video/caption", json=CAPTION, timeout=10),
        ):
            assert response.headers.get("Connection", "keep-alive") == "keep-alive"


def test_a_chunked_body_is_read_up_to_a_megabyte(server: Live, stack: ExitStack) -> None:
    chunks = iter([json.dumps(CAPTION).encode(), b" " * 2000])
    response = server.call("POST", "/video/caption", data=chunks, headers={"Content-Type": "application/json"})
    assert response.status_code == 202
    head = f"POST /video/caption HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Type: application/json"
    body = b"110000\r\n" + b" " * 0x110000 + b"\r\n"
    reply = read_reply(stack.enter_context(server.half_sent(f"{head}\nTransfer-Encoding: chunked", body)))
    assert (reply.status, reply.closed) == (413, True)


def test_clients_that_keep_connections_open_delay_no_other(server: Live, stack: ExitStack) -> None:
    began = time.monotonic()
    head = "GET /health HTTP/1.1\nConnection: close"
    many = [stack.enter_context(server.half_sent(head, b"")) for _ in range(2 * int(QUICK_S))]
    for connection in many:  # each would delay all others by two seconds
        assert connection.recv(12) == b"HTTP/1.1 200"
    server.health_s()
    assert time.monotonic() - began < QUICK_S


def test_the_server_trusts_no_header_of_a_proxy(server: Live) -> None:
    """By default gunicorn takes scheme and path from any process on this machine."""
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "on", "X-Forwarded-Protocol": "ssl"}
    answer = server.call("GET", "/health", headers=forged)
    assert (answer.status_code, "Strict-Transport-Security" in answer.headers) == (200, False)
    assert (
        server.call("GET", "/jobs", key=None, headers={"Script-Name": "/jobs", "Path-Info": "/health"}).status_code
        == 401
    )


# Thread limits


def test_waiting_requests_return_when_their_job_ends(
    server: Live, hold_waiting: Callable[[], list[Future[requests.Response]]]
) -> None:
    waiting = hold_waiting()
    for job in server.call("GET", "/jobs?status=running").json()["jobs"]:
        server.call("DELETE", f"/jobs/{job['jobId']}")
    assert {(f.result(30).status_code, f.result().json()["status"]) for f in waiting} == {(200, "cancelled")}


def test_clients_that_leave_a_strict_wait_cost_their_job_nothing(server: Live, stack: ExitStack) -> None:
    job, attempt = server.claimed_job()
    head = f"GET /jobs/{job.id}?wait=60 HTTP/1.1\nX-API-Key: {API_KEY}\nPrefer: handling=strict"
    waiting = [stack.enter_context(server.half_sent(head, b"")) for _ in range(WAITING)]
    time.sleep(0.5)
    for connection in waiting:
        reset(connection)
    token = server.services.signer.sign(EVENTS_PURPOSE, [attempt.id, attempt.deadline])
    event = {"type": "failed", "claim_id": CLAIM, "error": AssetNotFound("No such file.").to_wire()}
    headers = {"Authorization": f"Bearer {token}"}
    assert server.call("POST", f"/events/{attempt.id}", key=None, json=event, headers=headers).status_code == 200
    answer = server.call("GET", f"/jobs/{job.id}?strict=true")
    assert (answer.status_code, answer.json()["code"]) == (422, "asset_not_found")
    other = server.claimed_job()[0].id
    eventually(lambda: server.call("GET", f"/jobs/{other}?wait=1").headers.get("Preference-Applied") == "wait=1")
    assert "Traceback" not in (server.services.settings.data_dir / "log").read_text()


@pytest.mark.slow
def test_health_responds_while_all_other_threads_are_held(
    server: Live, stack: ExitStack, hold_waiting: Callable[[], list[Future[requests.Response]]]
) -> None:
    hold_waiting()
    hold_transfers(server, stack)
    assert max(server.health_s() for _ in range(10)) < QUICK_S
    assert server.call("POST", "/video/caption", json=CAPTION).status_code == 202


def hold_readers(server: Live, stack: ExitStack, url: str) -> list[socket.socket]:
    """Hold all transfer threads by downloads whose clients do not read."""
    path = url.removeprefix(server.origin)
    readers: list[socket.socket] = []

    def one_more() -> bool:
        connection = stack.enter_context(server.half_sent(f"GET {path} HTTP/1.1", b""))
        readers.extend([connection] if connection.recv(12) == b"HTTP/1.1 200" else [])
        return len(readers) == TRANSFERS

    eventually(one_more)
    return readers


def test_a_client_that_does_not_read_holds_its_thread_until_it_leaves(
    server: Live, stack: ExitStack, big_url: str
) -> None:
    readers = hold_readers(server, stack, big_url)
    assert server.call("GET", big_url).status_code == 503
    assert server.health_s() < QUICK_S
    for reader in readers:
        reset(reader)
    eventually(lambda: server.call("GET", big_url, headers={"Range": "bytes=0-0"}).status_code == 206)


@pytest.mark.slow
def test_a_hundred_waits_of_one_key_are_answered_and_delay_nobody(tmp_path: Path) -> None:
    with live(tmp_path / "data", MAX_WAITING_PER_KEY="0") as server, ThreadPoolExecutor(100) as pool:
        jobs = [server.claimed_job()[0].id for _ in range(100)]
        waiting = [pool.submit(server.call, "GET", f"/jobs/{job}?wait=90") for job in jobs]
        time.sleep(1)
        assert not any(wait.done() for wait in waiting)
        assert server.health_s() < QUICK_S
        assert server.call("POST", "/video/caption", json=CAPTION).status_code == 202
        for job in jobs:
            assert server.call("DELETE", f"/jobs/{job}").status_code == 200
        ends = [wait.result(30) for wait in waiting]
        assert {(end.status_code, end.json()["status"]) for end in ends} == {(200, "cancelled")}


def test_half_sent_requests_hold_no_place(server: Live, stack: ExitStack) -> None:
    body = f"POST /video/caption HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Type: application/json\nContent-Length: 900"
    for _ in range(2 * THREADS):
        stack.enter_context(server.half_sent(body))
        stack.enter_context(server.dial()).sendall(b"GET /health HTT")
    assert max(server.health_s() for _ in range(5)) < QUICK_S
    assert server.call("POST", "/video/caption", json=CAPTION).status_code == 202


@pytest.mark.slow
def test_slow_heads_hold_no_thread(tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(live(tmp_path / "data", idle_s=600, patience_s=600, head_s=600))
    slow = [stack.enter_context(server.dial()) for _ in range(AWAY + 2 * THREADS)]
    for part in (b"GET /health HTT", b"P/1.1\r\nX", b"-Slow: "):
        for connection in slow:
            connection.sendall(part)
    assert server.call("GET", "/health", key=None).status_code == 200
    assert server.call("POST", "/video/caption", json=CAPTION).status_code == 202
    for connection in slow[::50]:
        connection.sendall(b"yes\r\nHost: x\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200", "they were only waited for"


@pytest.mark.slow
@pytest.mark.parametrize("head", ["", "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_head_that_takes_too_long_is_cut_off(tmp_path: Path, stack: ExitStack, head: str) -> None:
    """The first one of a connection, and a later one."""
    connection = stack.enter_context(live(tmp_path / "data", head_s=1.5)).dial()
    stack.enter_context(connection)
    connection.sendall(head.encode())
    assert head == "" or b"200 OK" in connection.recv(65536)

    def is_closed() -> bool:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"x")
            return bool(select.select([connection], [], [], 0.2)[0])
        return True

    eventually(is_closed)


@pytest.mark.slow
def test_a_key_that_holds_its_transfers_holds_no_other_key(server: Live, stack: ExitStack) -> None:
    hold_transfers(server, stack)
    _, attempt = server.claimed_job(key_id="key_of_another")
    assert server.call("PUT", server.upload_path(attempt), key=None, data=b"video").status_code == 201


@pytest.mark.slow
@pytest.mark.parametrize("target", ["/files", "/video/caption"])
def test_a_client_that_sends_a_trickle_is_cut_off(tmp_path: Path, stack: ExitStack, target: str) -> None:
    server = stack.enter_context(live(tmp_path / "data", patience_s=1.5))
    head = f"POST {target} HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Type: application/json\nContent-Length: 1000000"
    connection = stack.enter_context(server.half_sent(head, b"ID3"))

    def is_answered() -> bool:
        connection.sendall(b"x")
        return bool(select.select([connection], [], [], 0.2)[0])

    eventually(is_answered)
    assert connection.recv(12) == b"HTTP/1.1 400"


@pytest.mark.slow
def test_clients_that_read_a_trickle_are_cut_off(tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(live(tmp_path / "data", patience_s=1.5))
    url = str(server.call("POST", "/files", data=b"ID3" + os.urandom(BIG - 3)).json()["url"])
    readers = hold_readers(server, stack, url)

    def is_free() -> bool:
        for reader in readers:
            reader.recv(2000)
        time.sleep(0.3)
        return server.call("GET", url, headers={"Range": "bytes=0-0"}).status_code == 206

    eventually(is_free)


@pytest.mark.slow
def test_an_honest_slow_transfer_is_finished(tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(live(tmp_path / "data", patience_s=1.5))
    head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 120003"
    connection = stack.enter_context(server.half_sent(head, b"ID3"))
    for _ in range(12):
        connection.sendall(b"x" * 10_000)
        time.sleep(0.3)
    assert read_reply(connection).status == 201


@pytest.mark.slow
def test_clients_that_stall_are_cut_off(tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(live(tmp_path / "data", idle_s=1.5, head_s=1.5))
    url = str(server.call("POST", "/files", data=b"ID3" + os.urandom(BIG - 3)).json()["url"])
    readers = hold_readers(server, stack, url)
    eventually(lambda: server.call("POST", "/files", data=b"ID3").status_code == 201)
    before = whole_files(server)
    head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 1000000"
    reply = read_reply(stack.enter_context(server.half_sent(head, b"x" * 5000)))
    assert (reply.status, reply.closed) == (400, True)
    for beginning in (b"GET /health HTT", b"POST /video/caption HTTP/1.1\r\nX-A"):
        connection = stack.enter_context(server.dial())
        connection.sendall(beginning)
        assert connection.recv(100) == b""
    assert (len(readers), set(server.files())) == (TRANSFERS, before)
    assert "Traceback" not in (server.services.settings.data_dir / "log").read_text()


@pytest.mark.slow
def test_waiting_requests_return_when_the_server_stops(tmp_path: Path) -> None:
    with live(tmp_path / "data", stop_s=120) as server, ThreadPoolExecutor(1) as pool:
        job, _ = server.claimed_job()
        waiting = pool.submit(server.call, "GET", f"/jobs/{job.id}?wait=90")
        time.sleep(0.5)
        assert not waiting.done()
        process = server.stop()
        answer = waiting.result(30)
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
        assert process.wait(60) == 0


@pytest.mark.slow
def test_an_endless_transfer_is_cut_off_before_docker_kills(tmp_path: Path, stack: ExitStack) -> None:
    with live(tmp_path / "data") as server:
        head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 1000000"
        stack.enter_context(server.half_sent(head, b"ID3"))
        eventually(lambda: any("uploads" in str(path) for path in server.files()))
        began_at = time.monotonic()
        assert server.stop().wait(60) == 0
        assert time.monotonic() - began_at > STOP_S - 1


def test_the_address_is_free_soon_after_the_server_is_killed(tmp_path: Path, stack: ExitStack) -> None:
    """Only the master is killed, as when memory runs out; a transfer keeps the other process busy."""
    with live(tmp_path / "data") as server:
        stack.enter_context(
            server.half_sent(f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 10000", b"ID3")
        )
        server.stop(signal.SIGKILL).wait()
        eventually(lambda: free(server.port))


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
        return True


@pytest.mark.slow
def test_clients_that_leave_during_a_download_hold_no_thread(server: Live, big_url: str) -> None:
    path = big_url.removeprefix(server.origin)
    for i in range(THREADS * 2):
        connection = server.half_sent(f"GET {path} HTTP/1.1\nRange: bytes={i}-", b"")
        connection.recv(1000)
        reset(connection)
    eventually(lambda: server.call("GET", big_url, headers={"Range": "bytes=0-9"}).status_code == 206)
    # Every transfer thread is free again, not only one.
    with ExitStack() as stack:
        hold_transfers(server, stack)


@pytest.mark.slow
def test_clients_that_leave_during_an_upload_hold_no_thread_and_leave_no_file(server: Live) -> None:
    before = whole_files(server)
    for _ in range(THREADS * 2):
        head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 1000000"
        reset(server.half_sent(head, b"x" * 5000))
    with ExitStack() as stack:
        hold_transfers(server, stack)
    eventually(lambda: not [path for path in server.files() if path.name.startswith(".part-")])
    assert whole_files(server) == before


# Bodies


def test_a_body_is_stored_with_exactly_its_length(server: Live, stack: ExitStack) -> None:
    _, attempt = server.claimed_job()
    head = f"PUT {server.upload_path(attempt)} HTTP/1.1\nContent-Length: 100000"
    connection = stack.enter_context(server.half_sent(head, b"x" * 50_000))
    connection.shutdown(socket.SHUT_WR)
    assert read_reply(connection).status == 400
    assert not [path for path in server.files() if attempt.id in str(path) or path.name.startswith(".part-")]
    head = f"PUT {server.upload_path(attempt)} HTTP/1.1\nContent-Length: 5"
    connection = stack.enter_context(server.half_sent(head, b"helloGARBAGE\r\n\r\n"))
    assert read_reply(connection).status == 201
    assert [path.read_bytes() for path in server.files() if attempt.id in str(path)] == [b"hello"]


def test_a_big_upload_comes_back_the_same(server: Live) -> None:
    _, attempt = server.claimed_job()
    body = b"ID3" + os.urandom(BIG - 3)
    assert server.call("PUT", server.upload_path(attempt), key=None, data=body).status_code == 201
    url = server.services.storage.presign_get(video_key(attempt), expires_at=attempt.deadline)
    assert server.call("GET", url, key=None).content == body
    part = server.call("GET", url, key=None, headers={"Range": f"bytes={BIG - 7}-"})
    assert (part.status_code, part.content) == (206, body[-7:])


def test_head_of_a_video_sends_no_body(server: Live, stack: ExitStack, big_url: str) -> None:
    path = big_url.removeprefix(server.origin)
    head = f"HEAD {path} HTTP/1.1\nConnection: close"
    connection = stack.enter_context(server.half_sent(head, b""))
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    assert received.endswith(b"\r\n\r\n")
    assert f"Content-Length: {BIG}".encode() in received


# Malformed requests


def test_malformed_requests_do_not_disturb_the_server(server: Live, stack: ExitStack) -> None:
    odd = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /files/%00%ff?signature=%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /video/caption HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /video/caption HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /video/caption HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 300 + b"\r\n",
    ]
    for request in odd:
        connection = stack.enter_context(server.dial())
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
        assert not answer.startswith(b"HTTP/1.1 5") and not answer.startswith(b"HTTP/1.1 2"), request[:60]
    assert server.health_s() < QUICK_S


def test_the_log_has_no_unexpected_error(server: Live) -> None:
    log = Path(server.services.settings.data_dir / "log").read_text()
    for word in ("request.failed", "Traceback", "dispatcher.step_failed"):
        assert word not in log, log[log.index(word) - 2000 : log.index(word) + 3000]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /health HTTP/1.1\nX-Long: " + "x" * 8000, 200),
        ("GET /health HTTP/1.1\nX-Long: " + "x" * 9000, 431),
        ("GET /health HTTP/1.1\n" + "\n".join(f"X-{i}: 1" for i in range(60)), 200),
        ("GET /health HTTP/1.1\n" + "\n".join(f"X-{i}: 1" for i in range(70)), 431),
        ("GET /health?" + "x" * 3500 + " HTTP/1.1", 200),
        ("GET /health?" + "x" * 4500 + " HTTP/1.1", 414),
    ],
)
def test_request_lines_and_headers_are_limited(server: Live, head: str, status: int) -> None:
    with server.half_sent(head, b"") as connection:
        reply = connection.recv(65536)
    assert int(reply.split()[1]) == status, reply
