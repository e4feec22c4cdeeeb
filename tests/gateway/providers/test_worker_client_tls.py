"""Calls of a rented worker: it proves its certificate before it gets a secret or a job, and failures have a reason."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.providers import http as provider_http
from gateway.providers import worker_client
from gateway.providers.base import Accepted, Ambiguous, NotYet, Phase, Unavailable
from gateway.providers.worker_client import Credentials, Health, NotAllowed, Unreachable, WorkerClient
from handler import certificate
from handler.certificate import Certificate
from handler.settings import Settings as WorkerSettings
from scripts.stack import free_port
from tests.gateway.providers.conftest import StubRuns, attempt_named, job_input, serve
from tests.handler.support import deaf_server
from tests.servers import FileServer, Reply, Request
from wire.identity import NONCE, proof

TOKEN, KEY = "t" * 64, "k" * 64


@dataclass
class Worker:
    """A worker behind TLS that can be started anew on its port, with another certificate."""

    settings: WorkerSettings
    beats: int = 0
    port: int = 0
    certificate: Certificate = field(default_factory=certificate.make)

    def __enter__(self) -> Worker:
        server, self.runs, self.stop = serve(self.settings, tls=self.certificate, port=self.port, heartbeat=self._beat)
        self.port = server.server_port
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    runs: StubRuns = field(init=False)
    stop: Callable[[], None] = field(init=False)

    def _beat(self) -> None:
        self.beats += 1

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(
        work_dir=tmp_path, session_token=TOKEN, worker_api_key=KEY, allowed_ips=("127.0.0.1",), worker_tls=True
    )


@pytest.fixture
def worker(settings: WorkerSettings) -> Iterator[Worker]:
    with Worker(settings) as worker:
        yield worker


def client_of(url: str) -> WorkerClient:
    return WorkerClient(url, [Credentials(TOKEN, KEY)], tls=True)


class Impostor(FileServer):
    """An HTTPS server that is not the worker. `answer(path)` gives its responses, None where it hangs up."""

    def __init__(self, answer: Callable[[str], tuple[int, bytes] | None], port: int = 0) -> None:
        super().__init__(port)
        self.answer, self.certificate = answer, certificate.make()
        self.default = self._reply
        self._http.handle_error = lambda *args: None  # type: ignore[method-assign]
        self._http.socket = self.certificate.context.wrap_socket(self._http.socket, server_side=True)

    def _reply(self, request: Request) -> Reply:
        answer = self.answer(request.path)
        return Reply(*answer) if answer else Reply(drop=True)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def assert_learnt_nothing(self) -> None:
        assert self.requests, "it was never asked"
        assert all(urlsplit(request.path).path == "/identity" for request in self.requests)
        assert not any(secret in str(request) for request in self.requests for secret in (TOKEN, KEY, "caption"))


def relay_to(port: int) -> Callable[[str], tuple[int, bytes]]:
    """Asks the true worker and repeats what it says."""

    def answer(path: str) -> tuple[int, bytes]:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body

    return answer


def proving(
    prove: Callable[[str, str], object], otherwise: Callable[[str], tuple[int, bytes] | None] = lambda path: None
) -> Impostor:
    """Its proof is made from the nonce and its own fingerprint; `otherwise` gives all other responses."""
    impostor = Impostor(otherwise)

    def answer(path: str) -> tuple[int, bytes] | None:
        parts = urlsplit(path)
        if parts.path != "/identity":
            return otherwise(path)
        made = prove(parse_qs(parts.query)["nonce"][0], impostor.certificate.fingerprint)
        return 200, json.dumps({"proof": made}).encode()

    impostor.answer = answer
    return impostor


def every_call(client: WorkerClient) -> list[Callable[[], object]]:
    given = job_input(attempt_named())
    return [lambda: client.submit(given), lambda: client.poll("a"), lambda: client.cancel("a"), client.health]


# ---- the true worker


def test_all_calls_go_through_tls(worker: Worker) -> None:
    client, attempt = client_of(worker.url), attempt_named()
    assert client.submit(job_input(attempt)) == Accepted(attempt.id)
    assert client.poll(attempt.id).phase is Phase.RUNNING
    client.cancel(attempt.id)
    assert client.health() == Health(slots=1, busy=1, peer="127.0.0.1")
    assert worker.beats == 4


def test_the_proof_is_asked_for_once_and_with_another_nonce_each_time(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    call = provider_http.Api.call

    def recorded(self: provider_http.Api, method: str, path: str, body: Any = None) -> provider_http.Answer:
        asked.append(path)
        return call(self, method, path, body)

    monkeypatch.setattr(provider_http.Api, "call", recorded)
    for _ in range(3):
        client = client_of(worker.url)
        client.health()
        client.health()
    proofs = [path for path in asked if path.startswith("/identity")]
    nonces = {parse_qs(urlsplit(path).query)["nonce"][0] for path in proofs}
    assert len(asked) == 9 and len(proofs) == len(nonces) == 3
    assert all(NONCE.fullmatch(nonce) for nonce in nonces)


def test_a_restarted_worker_must_prove_itself_again(settings: WorkerSettings) -> None:
    with Worker(settings) as first:
        client = client_of(first.url)
        client.health()
    with Worker(settings, port=first.port) as second:
        assert second.certificate.fingerprint != first.certificate.fingerprint
        assert client.submit(job_input(attempt_named())).__class__ is Accepted
        client.health()
        assert second.beats == 2


def test_a_worker_that_refuses_an_address_names_it(settings: WorkerSettings) -> None:
    object.__setattr__(settings, "allowed_ips", ("192.0.2.1",))
    with Worker(settings) as worker:
        client = client_of(worker.url)
        with pytest.raises(NotAllowed) as refused:
            client.health()
        assert refused.value.peer == "127.0.0.1"
        for call in every_call(client):
            with pytest.raises(Unavailable):
                call()
        assert worker.beats == 0


def test_no_list_of_authorities_is_read_for_a_pinned_certificate(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing consults it, and reading it would be most of the time of a call."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("the authorities are read")

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", read)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", read)
    assert client_of(worker.url).health().slots == 1


def test_without_tls_no_proof_is_asked_for(settings: WorkerSettings) -> None:
    server, _, stop = serve(settings)
    try:
        assert WorkerClient(f"http://127.0.0.1:{server.server_port}", [Credentials(TOKEN, KEY)]).health().slots == 1
        for call in every_call(client_of(f"https://127.0.0.1:{server.server_port}"))[1:]:
            with pytest.raises(Unreachable):
                call()
    finally:
        stop()


# ---- an impostor


def test_a_relay_with_its_own_certificate_learns_nothing(worker: Worker) -> None:
    with closing(Impostor(relay_to(worker.port))) as between:
        for call in every_call(client_of(between.url)):
            with pytest.raises(Unavailable, match="did not prove"):
                call()
        between.assert_learnt_nothing()
        assert len({request.path for request in between.requests}) == 4
    assert worker.beats == 0 and worker.runs.active() == 0


def test_a_relay_in_the_place_of_a_pinned_worker_learns_nothing(settings: WorkerSettings) -> None:
    with Worker(settings) as worker:
        client = client_of(worker.url)
        client.health()
    with Worker(settings) as moved, closing(Impostor(relay_to(moved.port), port=worker.port)) as between:
        for call in every_call(client):
            with pytest.raises(Unavailable, match="did not prove"):
                call()
        between.assert_learnt_nothing()
        assert moved.beats == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda nonce, own, true: proof(TOKEN, "0" * 32, own),  # heard before, of another nonce
        lambda nonce, own, true: proof(TOKEN, nonce, true),
        lambda nonce, own, true: proof(KEY, nonce, own),
        lambda nonce, own, true: proof("", nonce, own),
        lambda nonce, own, true: proof(TOKEN, nonce, own)[:-1],
        lambda nonce, own, true: "é" * 64,
        lambda nonce, own, true: "\ud800",
        lambda nonce, own, true: "",
        lambda nonce, own, true: None,
        lambda nonce, own, true: 7,
        lambda nonce, own, true: [proof(TOKEN, nonce, own)],
    ],
)
def test_a_proof_is_good_for_one_nonce_one_certificate_and_one_token(
    worker: Worker, wrong: Callable[[str, str, str], object]
) -> None:
    true = worker.certificate.fingerprint
    with closing(proving(lambda nonce, own: wrong(nonce, own, true))) as impostor:
        with pytest.raises(Unavailable, match="did not prove"):
            client_of(impostor.url).health()
        impostor.assert_learnt_nothing()


@pytest.mark.parametrize("answer", [(404, b"{}"), (500, b""), (302, b""), (200, b"[]"), (200, b"x" * 2_000_000), None])
def test_a_server_without_a_proof_gets_no_job(answer: tuple[int, bytes] | None) -> None:
    with closing(Impostor(lambda path: answer)) as impostor:
        client = client_of(impostor.url)
        try:
            assert isinstance(client.submit(job_input(attempt_named())), NotYet)
        except Unavailable:
            pass
        with pytest.raises(Unavailable):
            client.health()
        impostor.assert_learnt_nothing()


# ---- failures


def test_without_a_listener_nothing_was_sent() -> None:
    client = client_of(f"https://127.0.0.1:{free_port()}")
    assert isinstance(client.submit(job_input(attempt_named())), NotYet)
    with pytest.raises(Unreachable) as refused:
        client.health()
    assert not refused.value.silent


def test_silence_is_distinguished_from_a_closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_client, "CONNECT_TIMEOUT_S", 0.2)
    with deaf_server() as origin:
        client = client_of(origin.replace("http:", "https:"))
        assert isinstance(client.submit(job_input(attempt_named())), NotYet)
        with pytest.raises(Unreachable) as lost:
            client.health()
        assert lost.value.silent


def test_an_endless_handshake_times_out_and_nothing_was_sent(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_client, "CONNECT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(provider_http, "CONNECT_TIMEOUT_S", 0.3)
    pinned = client_of(worker.url)
    pinned.health()
    worker.stop()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", worker.port)))
        closing, cut_off = threading.Event(), threading.Semaphore(0)

        def trickle(connection: socket.socket) -> None:
            with connection:
                for byte in b"\x16\x03\x03\x40\x00" + b"\x02" * 1000:
                    if closing.wait(0.1):
                        return
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        cut_off.release()
                        return

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=trickle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        stack.callback(lambda: (closing.set(), listener.shutdown(socket.SHUT_RDWR)))
        for client in (pinned, client_of(worker.url)):
            assert isinstance(client.submit(job_input(attempt_named())), NotYet)
            assert cut_off.acquire(timeout=30), "the handshake would go on for longer"


def test_an_answer_that_is_lost_after_the_proof_is_ambiguous() -> None:
    with closing(proving(lambda nonce, own: proof(TOKEN, nonce, own))) as dying:
        client = client_of(dying.url)
        with pytest.raises(Ambiguous):
            client.submit(job_input(attempt_named()))
        with pytest.raises(Unreachable):
            client.health()


@pytest.mark.parametrize("body", [b"{}", b'{"slots": 1}', b'{"slots": {"total": "x", "busy": 0}, "peer": "a"}', b"[]"])
def test_a_health_that_makes_no_sense_is_unavailable(body: bytes) -> None:
    telling = proving(lambda nonce, own: proof(TOKEN, nonce, own), lambda path: (200, body))
    with closing(telling), pytest.raises(Unavailable, match="invalid response"):
        client_of(telling.url).health()


def test_a_worker_from_before_a_rotation_proves_itself_with_its_own_secrets(worker: Worker) -> None:
    rotated = WorkerClient(worker.url, [Credentials("new token", "new key"), Credentials(TOKEN, KEY)], tls=True)
    assert rotated.health().slots == 1
    foreign = WorkerClient(worker.url, [Credentials("new token", "new key")], tls=True)
    with pytest.raises(Unavailable, match="did not prove"):
        foreign.health()
