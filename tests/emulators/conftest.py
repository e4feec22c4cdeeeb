"""Fixtures of the stand-ins' tests: an endpoint without latency, a caller, and a worker that the test plays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.emulators.runpod import Config, Emulator

TIMEOUT_S = 20.0
INPUT = {"operation": "img2vid", "url_image": "http://127.0.0.1/photo.jpg"}

MakeEmulator = Callable[..., Emulator]


class Caller:
    """The gateway's side: every method answers the response."""

    def __init__(self, emulator: Emulator, session: requests.Session) -> None:
        self.base, self._session = emulator.endpoint_url, session
        self._session.headers["Authorization"] = f"Bearer {emulator.config.api_key}"

    def get(self, path: str) -> requests.Response:
        return self._session.get(f"{self.base}/{path}", timeout=TIMEOUT_S)

    def post(self, path: str, body: Any = None) -> requests.Response:
        return self._session.post(f"{self.base}/{path}", json=body, timeout=TIMEOUT_S)

    def run(self, **more: Any) -> str:
        """The id of a new job."""
        answer = self.post("run", {"input": INPUT, **more})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"id": answer.json()["id"], "status": "IN_QUEUE"}
        return str(answer.json()["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"status/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def health(self) -> dict[str, Any]:
        return dict(self.get("health").json())


class PlayedWorker:
    """The worker's side, as the SDK speaks it."""

    def __init__(self, emulator: Emulator, session: requests.Session, worker_id: str = "played") -> None:
        self.base, self.id, self._session = emulator.endpoint_url, worker_id, session
        self._session.headers["Authorization"] = emulator.config.worker_key

    def get(self, path: str, **query: Any) -> requests.Response:
        return self._session.get(f"{self.base}/{path}/{self.id}", params={"gpu": "none", **query}, timeout=TIMEOUT_S)

    def take(self) -> dict[str, Any] | None:
        answer = self.get("job-take", job_in_progress=0)
        assert answer.status_code in {200, 204}, answer.text
        return answer.json() if answer.status_code == 200 else None

    def post(self, path: str, job_id: str, body: Any) -> requests.Response:
        return self._session.post(
            f"{self.base}/{path}/{self.id}/{job_id}?gpu=none&isStream=false",
            data=json.dumps(body),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            timeout=TIMEOUT_S,
        )

    def done(self, job_id: str, **result: Any) -> requests.Response:
        return self.post("job-done", job_id, result)


def processes(group: int) -> list[tuple[int, str]]:
    """(process id, name) of the living processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == group and state != "Z":
            found.append((int(folder.name), head.partition("(")[2]))
    return found


@pytest.fixture
def make_emulator() -> Iterator[MakeEmulator]:
    """Starts endpoints that answer at once and start no workers of their own, unless told otherwise."""
    with ExitStack() as stack:

        def make(**fields: Any) -> Emulator:
            config = Config(**{"latency_ms": 0, "cold_start_s": 0, "max_workers": 0, "long_poll_s": 0.2, **fields})
            return stack.enter_context(Emulator(config))

        yield make


@pytest.fixture
def emulator(make_emulator: MakeEmulator) -> Emulator:
    return make_emulator()


@pytest.fixture
def call() -> Iterator[Callable[[Emulator], Caller]]:
    with ExitStack() as stack:
        yield lambda emulator: Caller(emulator, stack.enter_context(requests.Session()))


@pytest.fixture
def play() -> Iterator[Callable[..., PlayedWorker]]:
    with ExitStack() as stack:
        yield lambda emulator, worker_id="played": PlayedWorker(
            emulator, stack.enter_context(requests.Session()), worker_id
        )


@pytest.fixture
def caller(emulator: Emulator, call: Callable[[Emulator], Caller]) -> Caller:
    return call(emulator)


@pytest.fixture
def worker(emulator: Emulator, play: Callable[..., PlayedWorker]) -> PlayedWorker:
    return play(emulator)
