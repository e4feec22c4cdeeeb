"""`Idempotency-Key` over real HTTP, from many clients at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from common.clock import SystemClock
from gateway.access.keys import Keys
from gateway.db.engine import make_engine
from gateway.db.store import Store
from scripts.stack import Stack
from tests.end_to_end.processes import answers
from tests.servers import eventually

CLIENTS = 50
CAPTION = {"url_video": "https://example.com/v.mp4", "url_srt": "https://example.com/s.srt"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway without a dispatcher, so that the same job always looks the same."""
    home = tmp_path_factory.mktemp("gateway")
    stack = Stack(home / "data", home / "logs", environ={"RUN_DISPATCHER": "false", "MIN_FREE_DISK_PERCENT": "0"})
    try:
        stack.start_gateway()
        eventually(lambda: answers(stack))
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def other_key(gateway: Stack) -> str:
    engine = make_engine(f"sqlite:///{Path(gateway.data_dir) / 'reelay.db'}", pool_size=1)
    try:
        return Keys(Store(engine), SystemClock()).create("other")[1]
    finally:
        engine.dispose()


def post(gateway: Stack, name: str, body: Any = CAPTION, *, api_key: str | None = None) -> requests.Response:
    """Send the body in its own order with the Idempotency-Key `name`."""
    headers = {
        "X-API-Key": api_key or gateway.api_key,
        "Idempotency-Key": name,
        "Content-Type": "application/json",
    }
    return requests.post(f"{gateway.url}/video/caption", data=json.dumps(body), headers=headers, timeout=30)


def job_ids(gateway: Stack) -> list[str]:
    headers = {"X-API-Key": gateway.api_key}
    found = requests.get(f"{gateway.url}/jobs?limit=200", headers=headers, timeout=10).json()["jobs"]
    return [job["jobId"] for job in found]


def at_once(gateway: Stack, requests_: list[tuple[str, Any]]) -> list[requests.Response]:
    barrier = threading.Barrier(len(requests_))

    def one(request: tuple[str, Any]) -> requests.Response:
        barrier.wait()
        return post(gateway, *request)

    with ThreadPoolExecutor(len(requests_)) as pool:
        return list(pool.map(one, requests_))


def test_fifty_at_once_make_one_job_and_get_equal_responses(gateway: Stack) -> None:
    before = job_ids(gateway)
    turned = dict(reversed(CAPTION.items()))
    asked = [('"order-1"', turned) if number % 2 else ("order-1", CAPTION) for number in range(CLIENTS)]
    replies = at_once(gateway, asked)
    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.content for reply in replies}) == 1
    assert len({reply.headers["Location"] for reply in replies}) == 1
    assert job_ids(gateway) == [replies[0].json()["jobId"], *before]


def test_of_fifty_different_requests_at_once_with_one_key_one_is_accepted(gateway: Stack) -> None:
    before = job_ids(gateway)
    bodies = [{**CAPTION, "url_srt": f"https://example.com/{number}.srt"} for number in range(CLIENTS)]
    replies = at_once(gateway, [("order-2", body) for body in bodies])
    taken = [number for number, reply in enumerate(replies) if reply.status_code == 202]
    refused = {(reply.status_code, reply.json()["code"]) for reply in replies if reply.status_code != 202}
    assert (len(taken), refused) == (1, {(422, "idempotency_mismatch")})
    assert len(job_ids(gateway)) == len(before) + 1
    assert post(gateway, "order-2", bodies[taken[0]]).content == replies[taken[0]].content


def test_another_api_key_gets_another_job(gateway: Stack, other_key: str) -> None:
    mine, theirs = post(gateway, "order-3"), post(gateway, "order-3", api_key=other_key)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["jobId"] != theirs.json()["jobId"]
    assert theirs.json()["jobId"] not in job_ids(gateway)
