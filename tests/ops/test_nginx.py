"""The shipped nginx configuration in front of a real gateway."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, cycle
from pathlib import Path

import pytest
import requests

from gateway.errors import PayloadTooLarge, RateLimited, RequestError, StorageLow
from tests.conftest import SAMPLES
from tests.end_to_end.processes import children
from tests.end_to_end.test_broken_disk import small_disk
from tests.gateway.api.conftest import CAPTION
from tests.gateway.api.live import API_KEY, MAX_ASSET_BYTES, Live, read_reply
from tests.ops.nginx import NGINX, config, fronted, latencies
from tests.ops.stalled import Stalled
from tests.outputs import video_key
from tests.servers import PATIENCE_S, eventually

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")

# An attacker that does harm holds a place for 10 s and more; a busy machine alone delays by less than this.
P99_S = 3.0
STALLED = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def front(folder: Path) -> Iterator[Live]:
    with fronted(folder) as running:
        yield running


def test_nginx_accepts_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(config(tmp_path, 8080, 8000))
    said = subprocess.run(
        [str(NGINX), "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert said.returncode == 0 and "[warn]" not in said.stderr, said.stderr


def test_jobs_are_forwarded(front: Live) -> None:
    job = front.call("POST", "/video/caption", json=CAPTION)
    assert job.status_code == 202 and "Server" in job.headers and "/" not in job.headers["Server"]
    assert front.call("GET", job.headers["Location"]).json()["status"] == "queued"
    refused = front.call("POST", "/video/caption", key="wrong", json=CAPTION)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")


def test_a_waiting_request_returns_when_its_job_ends(front: Live) -> None:
    job, _ = front.claimed_job()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(front.call, "GET", f"/jobs/{job.id}", headers={"Prefer": "wait=60"})
        time.sleep(0.5)
        assert not waiting.done()
        front.call("DELETE", f"/jobs/{job.id}")
        assert waiting.result(30).json()["status"] == "cancelled"  # half of what it would wait


def test_a_file_of_the_maximum_size_is_stored_and_served(front: Live) -> None:
    body = b"ID3" + os.urandom(MAX_ASSET_BYTES - 3)
    url = front.call("POST", "/files", data=body).json()["url"]
    assert url.startswith(front.origin)
    assert front.call("GET", url, key=None).content == body
    part = front.call("GET", url, key=None, headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, body[1000:2000])
    assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(body)}"
    assert front.call("HEAD", url, key=None).headers["Content-Length"] == str(len(body))
    # Refused by its header. A client that keeps sending may get 502 from nginx, because the gateway reads no further.
    head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: {len(body) + 1}"
    with front.half_sent(head, b"ID3") as connection:
        assert read_reply(connection, wait_closed_s=0.1).status == 413


def test_a_sample_comes_from_the_cache_whole_and_in_parts(front: Live) -> None:
    body = (SAMPLES / "video.mp4").read_bytes()
    whole = [front.call("GET", "/samples/video.mp4", key=None) for _ in range(2)]
    assert [answer.content for answer in whole] == [body, body]
    assert whole[0].headers["X-Request-Id"] == whole[1].headers["X-Request-Id"], "the gateway was asked once"
    part = front.call("GET", "/samples/video.mp4", key=None, headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, body[1000:2000])
    unchanged = front.call("GET", "/samples/video.mp4", key=None, headers={"If-None-Match": whole[0].headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert front.call("HEAD", "/samples/video.mp4", key=None).headers["Content-Length"] == str(len(body))


def test_a_worker_stores_an_output(front: Live) -> None:
    _, attempt = front.claimed_job()
    upload = front.services.storage.presign_put(video_key(attempt), max_bytes=9, expires_at=attempt.deadline)
    path = upload.url.partition("/files/")[2]
    assert front.call("PUT", f"/files/{path}", key=None, data=b"the video").status_code == 201
    assert front.services.storage.size(video_key(attempt)) == 9


def test_without_a_key_no_byte_of_an_upload_is_stored(front: Live, folder: Path) -> None:
    for head in (
        "POST /files HTTP/1.1\nContent-Length: 60000000",
        "PUT /files/x?signature=y HTTP/1.1\nContent-Length: 90000000",
    ):
        with front.half_sent(head, b"x") as connection:
            assert read_reply(connection, wait_closed_s=0.1).status in {401, 403}
            assert buffered(folder) == []


def test_forwarded_headers_of_clients_are_dropped(front: Live) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Forwarded": "proto=https"}
    answer = front.call("GET", "/health", headers=forged)
    assert "Strict-Transport-Security" not in answer.headers


def test_nginx_refuses_large_headers_and_bodies(front: Live) -> None:
    assert front.call("GET", "/jobs", headers={"X-Much": "x" * 9000}).status_code == 400
    assert front.call("GET", "/jobs?x=" + "x" * 9000).status_code == 414
    refused = front.call("POST", "/video/caption", data=b"x" * 1_100_000)
    assert_refused(refused, PayloadTooLarge)


def assert_refused(response: requests.Response, error: type[RequestError]) -> None:
    """The response looks like this error of the gateway."""
    assert (response.status_code, response.headers["Content-Type"]) == (error.status, "application/problem+json")
    problem = response.json()
    assert (problem["code"], problem["type"]) == (error.code, f"/errors/{error.code}")
    assert (problem["status"], problem["title"]) == (error.status, error.text)


def test_an_upload_reaches_the_gateway_when_it_is_complete(front: Live, folder: Path) -> None:
    body = b"ID3" + os.urandom(2_000_000)
    head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: {len(body)}"
    before = front.files()
    with front.half_sent(head, body[:1_000_000]) as connection:
        eventually(lambda: buffered(folder))
        assert front.files() == before
        connection.sendall(body[1_000_000:])
        assert read_reply(connection, wait_closed_s=0.1).status == 201
    eventually(lambda: not buffered(folder))


def buffered(folder: Path) -> list[Path]:
    """The files in which nginx collects uploads; it removes their names at once."""
    master = int((folder / "pid").read_text())
    opened = [link for pid in children(master) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [path for path in map(target, opened) if path.is_relative_to(folder / "uploads")]


def target(link: Path) -> Path:
    try:
        return link.readlink()
    except FileNotFoundError:  # just closed
        return link


REFUSED = {
    f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: {MAX_ASSET_BYTES + 1}": 413,
    f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nTransfer-Encoding: chunked": 411,
    f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 99999\nContent-Type: multipart/mixed": 415,
    f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 99999\nContent-Type: multipart/form-data": 400,
    f"POST /files/x HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 99999": 405,
    "POST /files HTTP/1.1\nX-API-Key: wrong\nContent-Length: 99999": 401,
    "POST /files HTTP/1.1\nX-API-Key: wrong\nX-Body-Length: 5\nX-Original-Method: GET\nContent-Length: 99999": 401,
    "POST /files HTTP/1.1\nContent-Length: 99999": 401,
    "PUT /files/x?signature=y HTTP/1.1\nContent-Length: 99999": 403,
    "PUT /files HTTP/1.1\nContent-Length: 99999": 401,
    "DELETE /files HTTP/1.1\nContent-Length: 90000000": 401,
    "GET /files/x HTTP/1.1\nContent-Length: 90000000": 403,
    "PATCH /files/x HTTP/1.1\nTransfer-Encoding: chunked": 401,
}


def test_an_upload_is_refused_in_the_words_of_the_gateway_before_it_is_buffered(front: Live, folder: Path) -> None:
    for head, status in REFUSED.items():
        with front.half_sent(head, b"5\r\nhello\r\n" if "chunked" in head else b"") as connection:
            reply = read_reply(connection, wait_closed_s=0.1)
        assert reply.status == status, head
        assert reply.headers["Content-Type"] == "application/problem+json", head
        assert "X-Request-Id" in reply.headers, head
        assert buffered(folder) == []


@pytest.mark.slow
def test_an_upload_for_which_nginx_has_no_space_is_refused_like_by_the_gateway(tmp_path: Path) -> None:
    with small_disk(tmp_path / "uploads", "1m"), fronted(tmp_path, RUN_DISPATCHER="false") as front:
        assert front.call("POST", "/files", data=b"ID3" + os.urandom(100_000)).status_code == 201
        response = front.call("POST", "/files", data=b"ID3" + os.urandom(3_000_000))
        assert_refused(response, StorageLow)
        assert int(response.headers["Retry-After"]) > 0
        assert front.call("POST", "/files", data=b"ID3" + os.urandom(100_000)).status_code == 201


@pytest.mark.slow
def test_trickling_transfers_hold_no_thread_of_the_gateway(front: Live, folder: Path) -> None:
    """Two keys do their worst; another key and a worker notice nothing."""
    attackers, (_, other) = (
        [front.services.keys.create("attacker")[1] for _ in range(2)],
        front.services.keys.create("b"),
    )
    urls = [
        front.call("POST", "/files", key=key, data=b"ID3" + os.urandom(24_000_000)).json()["url"] for key in attackers
    ]
    post = "POST {} HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 900000\r\n\r\nID3"
    uploads = [post.format(path, key).encode() for key in attackers for path in ("/files", "//files")]
    downloads = [f"GET {url.removeprefix(front.origin)} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for url in urls]
    before = set(front.files())
    with Stalled(front.port, 128, [*uploads, *downloads]) as stalled:
        for _ in range(3):
            body = b"ID3" + os.urandom(500_000)
            stored = front.call("POST", "/files", key=other, data=body)
            assert stored.status_code == 201
            assert front.call("GET", stored.json()["url"], key=None).content == body
            _, attempt = front.claimed_job()
            assert front.call("PUT", front.upload_path(attempt), key=None, data=body).status_code == 201
            time.sleep(1)
        alive, _ = stalled.count()
        assert alive == 128
        assert not [path for path in set(front.files()) - before if path.name.startswith(".part-")]
        eventually(lambda: open_requests(folder) == 0, 10)
        assert stalled.count()[0] == 128


def open_requests(folder: Path) -> int:
    """How many connections nginx has to the gateway: one for each request that the gateway works on."""
    port = int((folder / "nginx.conf").read_text().partition("server 127.0.0.1:")[2].partition(";")[0])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(remote.endswith(f":{port:04X}") and state == "01" for _, _, remote, state, *_ in lines)


@pytest.mark.slow
def test_the_concurrent_requests_of_an_address_are_limited(front: Live) -> None:
    head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 1000000"
    with ExitStack() as stack:
        connections = [stack.enter_context(front.half_sent(head)) for _ in range(20)]
        refused = []
        for connection in connections:
            connection.settimeout(0.5)
            try:
                refused.append(int(connection.recv(4096).split()[1]))
            except TimeoutError:
                refused.append(0)
        assert sorted(refused) == [0] * 16 + [429] * 4, "the limit in nginx.conf"
        assert front.call("GET", "/health").status_code == 200
        assert_refused(front.call("GET", "/files/x?signature=y", key=None), RateLimited)


def test_the_log_contains_no_signature(front: Live, folder: Path) -> None:
    url = front.call("POST", "/files", data=b"ID3").json()["url"]
    signature = url.partition("signature=")[2]
    front.call("GET", url)
    front.call("GET", url + "x")
    eventually(lambda: "GET /files/uploads/" in (folder / "access.log").read_text())
    text = (folder / "access.log").read_text() + (folder / "error.log").read_text()
    assert signature not in text and API_KEY not in text


ATTACKS = {
    "headers": [b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: "],
    "bodies": [
        b"POST /video/caption HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n{",
        b"POST /video/caption HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\nContent-Type: application/json\r\n"
        b"Content-Length: 900000\r\n\r\n{" % API_KEY.encode(),
        b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nx",
        b"POST /files HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\nContent-Length: 900000\r\n\r\nID3" % API_KEY.encode(),
    ],
    "reads": [b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"],
}


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], object]]:
    """A call to another nginx and gateway without attackers."""
    with fronted(tmp_path_factory.mktemp("aside")) as other:
        yield lambda: other.call("GET", "/health")


@pytest.mark.slow
@pytest.mark.parametrize("attack", [*ATTACKS, "all"])
def test_a_thousand_stalled_connections_delay_no_other_client(
    front: Live, aside: Callable[[], object], attack: str
) -> None:
    """Other requests, each on its own connection, alternate with requests to a server without attackers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * STALLED:
        pytest.skip("needs more open files")
    requests = [*chain(*ATTACKS.values())] if attack == "all" else ATTACKS[attack]
    url = front.call("POST", "/files", data=b"ID3" + os.urandom(2_000_000)).json()["url"]
    if attack in {"reads", "all"}:
        requests = [*requests, f"GET {url.removeprefix(front.origin)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()]

    turns = cycle(["/health", "/jobs?status=running"])

    def honest() -> None:
        assert front.call("GET", next(turns)).status_code == 200

    calm, _ = latencies([honest, aside], 2)
    with Stalled(front.port, STALLED, requests) as stalled:
        during, meanwhile = latencies([honest, aside], 5)
        job = front.call("POST", "/video/caption", json=CAPTION)
        alive, opened = stalled.count()
    p99, before, base = (taken[int(len(taken) * 0.99)] for taken in (during, calm, meanwhile))
    print(f"{attack}: {alive} open, {opened} opened; {len(during)} calls,"
          f" p99 {p99:.3f} s, before {before:.3f} s, aside {base:.3f} s")  # fmt: skip
    assert job.status_code == 202
    assert alive > 0.8 * STALLED
    # A machine that is as slow without an attack shows nothing.
    assert p99 < max(P99_S, 3 * before, 3 * base)
