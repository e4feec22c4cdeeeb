"""A stand-in for RunPod Serverless: the job and worker API of one queue endpoint over HTTP, and real workers.

    with Emulator(Config(cold_start_s=0, env={"FETCH_ALLOW_ORIGINS": …})) as emulator:
        requests.post(f"{emulator.endpoint_url}/run", …)      # the job API
        emulator.inject("status", "run", status=429, times=3)  # see faults.py
        emulator.calls["status"]

`python -m tests.emulators runpod` runs it by hand.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from flask import Flask

from tests.emulators.runpod.calls import Calls
from tests.emulators.runpod.config import Config
from tests.emulators.runpod.faults import Fault, Faults
from tests.emulators.runpod.fleet import Fleet
from tests.emulators.runpod.job_api import job_api
from tests.emulators.runpod.jobs import Queue
from tests.emulators.runpod.server import Server
from tests.emulators.runpod.worker_api import environment, worker_api

__all__ = ["Config", "Emulator", "Fault"]


class Emulator:
    """One endpoint. Serves `url` inside `with`; stops with all its workers at the end."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.home = self.config.home or Path(tempfile.mkdtemp(prefix="runpod-"))
        self.faults = Faults()
        self._calls = Calls(self._config, self.faults)
        self.queue = Queue(self._config)
        self.fleet = Fleet(self._config, self.queue, self.faults, self.home, self._environment)
        app = Flask(__name__)
        app.register_blueprint(job_api(self._config, self.queue, self.fleet, self._calls))
        app.register_blueprint(worker_api(self._config, self.queue, self.fleet, self._calls))
        self._server = Server((self.config.host, self.config.port), app)

    def __enter__(self) -> Emulator:
        self._server.start()
        self.fleet.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.fleet.stop()
        self._server.stop()
        if not self.config.home:
            shutil.rmtree(self.home, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"http://{self.config.host}:{self._server.server_address[1]}"

    @property
    def endpoint_url(self) -> str:
        """The base URL of the job API; `/run` comes after it."""
        return f"{self.url}/v2/{self.config.endpoint_id}"

    @property
    def gateway_environ(self) -> dict[str, str]:
        """The variables with which a gateway uses this endpoint."""
        return {
            "PROVIDERS": "runpod",
            "RUNPOD_API_BASE": f"{self.url}/v2",
            "RUNPOD_API_KEY": self.config.api_key,
            "RUNPOD_ENDPOINT_ID": self.config.endpoint_id,
        }

    @property
    def calls(self) -> Counter[str]:
        """How many calls of each kind were made, failed ones included."""
        return self._calls.counts()

    def reset_calls(self) -> None:
        self._calls.reset()

    def configure(self, **changes: Any) -> None:
        """Replace fields of the configuration while it runs."""
        self.config = dataclasses.replace(self.config, **changes)

    def inject(self, kind: str, on: str, **more: Any) -> Fault:
        """Add a Fault with these fields; its `hits` counts how often it struck."""
        return self.faults.add(Fault(kind, on, **more))

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as /status returns it, without a call. Raises KeyError when it was forgotten."""
        job = self.queue.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job.document()

    def _config(self) -> Config:
        return self.config

    def _environment(self, worker_id: str) -> dict[str, str]:
        return environment(self.endpoint_url, worker_id, self.config)
