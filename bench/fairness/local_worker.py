"""A stand-in for the worker of the provider `local` that takes one job at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from bench.gateway.workers import CONTENT, work
from ffmpeg_ops.operation import StopSignal
from tests.servers import Loopback
from wire.envelope import JobInput, parse_job_input
from wire.errors import Cancelled, JobError

_HEALTH = {"slots": {"total": 1, "busy": 0}, "peer": "127.0.0.1"}


class LocalWorker(Loopback):
    """Works on a job for as long as its `duration`."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "output.mp4"
        folder.mkdir(parents=True, exist_ok=True)
        self._output.write_bytes(CONTENT)
        self._slot, self._stop = threading.Lock(), StopSignal()
        self._results: dict[str, Mapping[str, Any] | None] = {}  # None: in progress
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._respond(*worker._shown(self.path))

            def do_POST(self) -> None:
                raw = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._respond(*worker._taken(parse_job_input(raw)))

            def do_DELETE(self) -> None:
                self._respond(404, {})

            def _respond(self, status: int, document: Mapping[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(Handler)

    def close(self) -> None:
        self._stop.set(Cancelled())
        super().close()

    def _shown(self, path: str) -> tuple[int, Mapping[str, Any]]:
        if path == "/health":
            return 200, _HEALTH
        attempt_id = path.rpartition("/")[2]
        if attempt_id not in self._results:
            return 404, {}
        result = self._results[attempt_id]
        return 200, {"status": "completed", "result": result} if result else {"status": "running", "progress": 0.0}

    def _taken(self, job_input: JobInput) -> tuple[int, Mapping[str, Any]]:
        assert job_input.delivery is not None
        attempt_id = job_input.delivery.attempt_id
        if not self._slot.acquire(blocking=False):
            return 503, {"code": "worker_busy"}
        self._results[attempt_id] = None
        threading.Thread(target=self._work, args=(attempt_id, job_input), daemon=True).start()
        return 202, {"attemptId": attempt_id}

    def _work(self, attempt_id: str, job_input: JobInput) -> None:
        seconds = float(job_input.params["duration"])
        with suppress(JobError):  # at the end of the benchmark
            self._results[attempt_id], _ = work(job_input, seconds, self._output, self._stop)
        self._slot.release()
