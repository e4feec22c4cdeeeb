"""Bodies with wrong, duplicate or missing lengths over real connections: one response, then the connection closes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.gateway.api.live import API_KEY, Live, live

BODY = b'{"url_video": "https://example.com/v.mp4", "url_srt": "https://example.com/s.srt"}'
INSIDE = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
# The headers, and what follows them.
FRAMINGS: dict[str, tuple[list[str], bytes]] = {
    "too short": ([f"Content-Length: {len(BODY) + 50}"], BODY),
    "negative": (["Content-Length: -1"], BODY),
    "no number": (["Content-Length: x"], BODY),
    "hexadecimal": (["Content-Length: 0x52"], BODY),
    "with a sign": ([f"Content-Length: +{len(BODY)}"], BODY),
    "with an underscore": (["Content-Length: 8_2"], BODY),
    "huge": (["Content-Length: " + "9" * 100], BODY),
    "twice the same": ([LENGTH, LENGTH], BODY),
    "twice another": ([LENGTH, "Content-Length: 5"], BODY),
    "a list": ([f"Content-Length: {len(BODY)}, {len(BODY)}"], BODY),
    "length and chunks": ([LENGTH, CHUNKED], b"0\r\n\r\n" + INSIDE),
    "chunks and length": ([CHUNKED, LENGTH], b"0\r\n\r\n" + INSIDE),
    "none": ([], BODY),
    "no number of a chunk": ([CHUNKED], b"x\r\n" + BODY),
    "a negative chunk": ([CHUNKED], b"-5\r\n" + BODY),
    "a chunk with a sign": ([CHUNKED], b"+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk that goes on": ([CHUNKED], b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk that ends early": ([CHUNKED], b"fff\r\n" + BODY),
    "no last chunk": ([CHUNKED], b"52\r\n" + BODY + b"\r\n"),
    "a huge chunk": ([CHUNKED], b"f" * 40 + b"\r\n" + BODY),
    "a long line of a chunk": ([CHUNKED], b"5;" + b"x" * 200_000),
    "a chunk with bare newlines": ([CHUNKED], b"52\n" + BODY + b"\n0\n\n"),
    "odd trailers": ([CHUNKED], b"52\r\n" + BODY + b"\r\n0\r\nX-API-Key: x\r\nno colon\r\n\r\n"),
    "another coding": (["Transfer-Encoding: gzip"], BODY),
    "two codings": (["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n" + INSIDE),
    "chunked twice": ([CHUNKED, CHUNKED], b"0\r\n\r\n" + INSIDE),
    "a coding in disguise": (["Transfer-Encoding: \x0bchunked"], b"0\r\n\r\n" + INSIDE),
    "a name with a space": (["Transfer-Encoding : chunked", LENGTH], b"0\r\n\r\n" + INSIDE),
    "a folded header": ([LENGTH, "X-A: b", " Transfer-Encoding: chunked"], BODY),
    "nul in a header": ([LENGTH, "X-A: \0"], BODY),
    "an underscore in a name": (["Content_Length: 5", "X_API_Key: x"], BODY),
}
# The response of each route to a missing body.
ROUTES = {
    "POST /video/caption": 422,
    "POST /files": 411,
    "POST /events/x": 401,
    "PUT /files/x?signature=y": 403,
    "GET /jobs": 200,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("gateway") / "data", idle_s=1.0, head_s=1.0, RUN_DISPATCHER="false") as running:
        yield running


def answers(server: Live, route: str, headers: list[str], body: bytes) -> list[int]:
    """The statuses of all responses on a connection until the server closes it."""
    head = [f"{route} HTTP/1.1", "Host: x", f"X-API-Key: {API_KEY}", "Content-Type: application/json", *headers]
    with server.dial() as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    assert b"Traceback" not in received
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_body_of_odd_length_gets_one_response_and_makes_no_job(server: Live, framing: str) -> None:
    for route, refusal in ROUTES.items():
        [status] = answers(server, route, *FRAMINGS[framing])
        assert status in {refusal, 400, 413}, (route, status)
    assert server.call("GET", "/jobs").json()["jobs"] == []
    assert server.files() == []


@pytest.mark.slow
def test_the_malformed_remainder_of_an_unread_body_gets_no_response(server: Live) -> None:
    job = server.call("POST", "/video/caption", data=BODY, headers={"Content-Type": "application/json"}).json()["jobId"]
    server.call("DELETE", f"/jobs/{job}")
    try:
        for framing in FRAMINGS.values():
            [status] = answers(server, f"POST /jobs/{job}/webhook", *framing)
            assert status in {400, 409, 413}
    finally:
        with server.services.store._engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM jobs")


def test_the_same_body_with_a_valid_length_makes_a_job(server: Live) -> None:
    for headers, body in (([LENGTH], BODY), ([CHUNKED], b"52\r\n" + BODY + b"\r\n0\r\n\r\n")):
        assert answers(server, "POST /video/caption", [*headers, "Connection: close"], body) == [202]
