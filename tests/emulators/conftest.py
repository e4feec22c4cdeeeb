"""Fixtures of the stand-ins' tests: an endpoint without latency, a caller, and a worker played by the test."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.emulators import vast as vast_ai
from tests.emulators.runpod import Config, Emulator

TIMEOUT_S = 20.0
INPUT = {"operation": "img2vid", "url_image": "http://127.0.0.1/photo.jpg"}


class Caller:
    """Calls the job API."""

    def __init__(self, emulator: Emulator, session: requests.Session) -> None:
        self._base, self._session = emulator.endpoint_url, session
        self._headers = {"Authorization": f"Bearer {emulator.config.api_key}"}

    def get(self, path: str) -> requests.Response:
        return self._session.get(f"{self._base}/{path}", headers=self._headers, timeout=TIMEOUT_S)

    def post(self, path: str, body: Any = None) -> requests.Response:
        return self._session.post(f"{self._base}/{path}", json=body, headers=self._headers, timeout=TIMEOUT_S)

    def run(self, job_input: dict[str, Any] = INPUT) -> str:
        """The id of a new job."""
        answer = self.post("run", {"input": job_input})
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
    """Calls the worker API like the SDK."""

    def __init__(self, emulator: Emulator, session: requests.Session, worker_id: str = "played") -> None:
        self._base, self._id, self._session = emulator.endpoint_url, worker_id, session
        self._headers = {"Authorization": emulator.config.worker_key}

    def take(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any] | None:
        url = f"{self._base}/job-take/{self._id}?gpu=none&job_in_progress=0"
        answer = self._session.get(url, headers=self._headers, timeout=timeout_s)
        assert answer.status_code in {200, 204}, answer.text
        return answer.json() if answer.status_code == 200 else None

    def done(self, job_id: str, **result: Any) -> None:
        url = f"{self._base}/job-done/{self._id}/{job_id}?gpu=none&isStream=false"
        headers = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        assert self._session.post(url, data=json.dumps(result), headers=headers, timeout=TIMEOUT_S).ok


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
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """An endpoint without latency and without workers."""
    with Emulator(Config(latency_ms=0, cold_start_s=0, max_workers=0, long_poll_s=0.2)) as emulator:
        yield emulator


@pytest.fixture
def caller(emulator: Emulator, session: requests.Session) -> Caller:
    return Caller(emulator, session)


@pytest.fixture
def worker(emulator: Emulator, session: requests.Session) -> PlayedWorker:
    return PlayedWorker(emulator, session)


# ---- Vast.ai

TOKEN, KEY = "t" * 40, "k" * 40
WORKER_ENV = {
    "-p 3334:3334": "1",
    "WORKER_MODE": "http",
    "WORKER_HOST": "0.0.0.0",
    "WORKER_PORT": "3334",
    "WORKER_TLS": "true",
    "SESSION_TOKEN": TOKEN,
    "WORKER_API_KEY": KEY,
    "ALLOWED_IPS": "127.0.0.1",
    "WORKER_CONCURRENCY": "1",
    "WORKER_LIFETIME_SECONDS": "7200",
    "WORKER_SILENCE_SECONDS": "420",
}


class Renter:
    """Calls the API of Vast.ai; methods named after a call return its response."""

    def __init__(self, emulator: vast_ai.Emulator, session: requests.Session) -> None:
        self.emulator, self._session = emulator, session

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None, **query: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {key or self.emulator.config.api_key}"}
        url = f"{self.emulator.url}/api/{path}"
        return self._session.request(method, url, json=body, params=query, headers=headers, timeout=TIMEOUT_S)

    def search(self, **query: Any) -> requests.Response:
        return self.ask("POST", "v0/bundles/", query)

    def offer(self) -> int:
        """The id of a free offer."""
        return next(row["id"] for row in self.emulator.account.market() if row["rentable"])

    def create(self, offer_id: int | None = None, **changes: Any) -> requests.Response:
        body = {"client_id": "me", "image": "example/worker:1.0", "runtype": "args", "disk": 10, "cancel_unavail": True}
        body |= {"label": "reelay:test:1:1", "env": WORKER_ENV, **changes}
        return self.ask("PUT", f"v0/asks/{offer_id or self.offer()}/", body)

    def rented(self, **changes: Any) -> int:
        """The id of a new instance."""
        answer = self.create(**changes)
        assert (answer.status_code, answer.json()["success"]) == (200, True), answer.text
        return int(answer.json()["new_contract"])

    def list(self, **query: Any) -> requests.Response:
        return self.ask("GET", "v1/instances/", **query)

    def show(self, instance_id: int) -> dict[str, Any] | None:
        answer = self.ask("GET", f"v0/instances/{instance_id}/")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] | None = answer.json()["instances"]
        return shown

    def destroy(self, instance_id: int, key: str | None = None) -> requests.Response:
        return self.ask("DELETE", f"v0/instances/{instance_id}/", key=key)

    def healthy(self, instance_id: int) -> bool:
        """Whether the instance's worker responds at its current address, whatever its certificate."""
        shown = self.show(instance_id)
        assert shown and shown["ports"]
        url = f"https://{shown['public_ipaddr'].strip()}:{shown['ports']['3334/tcp'][-1]['HostPort']}/health"
        headers = {"X-Session-Token": TOKEN, "X-API-Key": KEY}
        with warnings.catch_warnings(action="ignore"):
            try:
                return requests.get(url, headers=headers, verify=False, timeout=TIMEOUT_S).ok
            except requests.ConnectionError:  # the port is mapped before the worker listens
                return False


@pytest.fixture
def vast() -> Iterator[vast_ai.Emulator]:
    """An account with a stopped clock, without rate limits, and with pretended workers."""
    with vast_ai.Emulator(vast_ai.Config(pretend=True, speed=0, spacing={})) as vast:
        yield vast


@pytest.fixture
def renter(vast: vast_ai.Emulator, session: requests.Session) -> Renter:
    return Renter(vast, session)
