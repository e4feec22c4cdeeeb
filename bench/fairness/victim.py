"""The victim: the light load of an ordinary key. Run as a program, it reads a Load and prints a Report.

Requests are sent at fixed times, each on a new connection, whether or not earlier ones have been answered.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

HOST = "127.0.0.1"
TIMEOUT_S = 30.0
HEALTH_PAUSE_S = 0.1
FILE = b"ID3" + bytes(20_000)
WORK_S = 0.2


@dataclass(frozen=True)
class Load:
    """What the victim does."""

    #: The gateway's port.
    port: int
    #: The victim's key.
    api_key: str
    #: Receives the webhooks of its jobs.
    webhook_url: str
    #: For how long.
    seconds: float
    #: Requests per second.
    per_s: int
    #: Every so many requests, one submits a job.
    job_every: int


@dataclass
class Report:
    """What became of it."""

    #: How long each request took, in ms.
    took_ms: list[float] = field(default_factory=list)
    #: The same for `/health`.
    health_ms: list[float] = field(default_factory=list)
    #: Responses other than 2xx, and requests without a response, by status or kind of error.
    refused: dict[str, int] = field(default_factory=dict)
    #: Ids of the jobs.
    job_ids: list[str] = field(default_factory=list)


class _Victim:
    def __init__(self, load: Load) -> None:
        self._load, self.report = load, Report()
        self._body = {"url_image": "https://example.com/photo.jpg", "duration": WORK_S, "webhook_url": load.webhook_url}
        self._file, self._over = "", threading.Event()

    def run(self) -> None:
        self._upload()
        self._submit()
        self.report.refused.clear()
        health = threading.Thread(target=self._watch_health)
        health.start()
        began, number = time.monotonic(), 0
        with ThreadPoolExecutor(256) as pool:  # more than there can be at once
            while (due := began + number / self._load.per_s) < began + self._load.seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                pool.submit(self._request, number, due)
                number += 1
        self._over.set()
        health.join()

    def _request(self, number: int, due: float) -> None:
        others = (self._look, self._upload, self._download, self._list)
        (self._submit if number % self._load.job_every == 0 else others[number % len(others)])()
        self.report.took_ms.append((time.monotonic() - due) * 1000)

    def _watch_health(self) -> None:
        while not self._over.wait(HEALTH_PAUSE_S):
            began = time.monotonic()
            self._call("GET", "/health")
            self.report.health_ms.append((time.monotonic() - began) * 1000)

    def _submit(self) -> None:
        if job := self._call("POST", "/video/img2vid", json.dumps(self._body).encode()):
            self.report.job_ids.append(str(job["jobId"]))

    def _upload(self) -> None:
        if stored := self._call("POST", "/files", FILE):
            url = urlsplit(str(stored["url"]))
            self._file = f"{url.path}?{url.query}"

    def _look(self) -> None:
        self._call("GET", f"/jobs/{self.report.job_ids[-1]}" if self.report.job_ids else "/jobs?limit=1")

    def _download(self) -> None:
        self._call("GET", self._file or "/jobs?limit=1")

    def _list(self) -> None:
        self._call("GET", "/jobs?limit=20")

    def _call(self, method: str, path: str, body: bytes | None = None) -> Mapping[str, object]:
        """The response's document. Empty for files, and for a response that is counted as refused."""
        headers = {"X-API-Key": self._load.api_key, "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(HOST, self._load.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content, outcome = response.read(), str(response.status)
        except (OSError, http.client.HTTPException) as error:
            content, outcome = b"", type(error).__name__
        finally:
            connection.close()
        if outcome[0] != "2":
            self.report.refused[outcome] = self.report.refused.get(outcome, 0) + 1
            return {}
        found: Mapping[str, object] = json.loads(content) if content[:1] == b"{" else {}
        return found


if __name__ == "__main__":
    victim = _Victim(Load(**json.load(sys.stdin)))
    victim.run()
    json.dump(asdict(victim.report), sys.stdout)
