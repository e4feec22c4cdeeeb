"""The time from the start of a RunPod worker to its first job-take."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.figures import RUNS, Figure

ROOT = Path(__file__).parent.parent
LIMIT_S = 30


def measure() -> list[Figure]:
    taken = [first_take_s() for _ in range(RUNS)]
    return [
        Figure(
            "worker.cold_start_s", round(statistics.median(taken), 3), "s", "≤ 1.2", "process start to first job-take"
        )
    ]


def first_take_s() -> float:
    """Seconds from the start of `python -m handler` to its first job-take, from a server on loopback without jobs."""
    asked = threading.Event()

    class Platform(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/job-take/" in self.path:
                asked.set()
            time.sleep(0.5)  # a long poll, during which the worker is stopped
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Platform) as server, tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "PYTHONPATH": str(ROOT),
            "WORK_DIR": f"{folder}/work",
            "RUNPOD_WEBHOOK_GET_JOB": f"{url}/v2/endpoint/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/v2/endpoint/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{url}/v2/endpoint/ping/$RUNPOD_POD_ID?gpu=none",
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_POD_ID": "worker",
            "RUNPOD_ENDPOINT_ID": "endpoint",
        }
        started = time.perf_counter()
        worker = subprocess.Popen(
            [sys.executable, "-m", "handler"],
            cwd=folder,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            if not asked.wait(LIMIT_S):
                raise TimeoutError(f"no job-take within {LIMIT_S} s")
            return time.perf_counter() - started
        finally:
            os.killpg(worker.pid, signal.SIGKILL)  # together with its child, which sends the pings
            worker.wait()
            server.shutdown()
