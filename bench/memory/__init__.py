"""The peak of memory, worker and commands together, for the inputs that need most of it. Takes up to ten minutes.

Every case is one attempt in a process of its own, with the inputs made on the spot and fetched from loopback. Values
are megabytes of resident memory, sampled many times a second. A job must stay below the limit or end for another
reason: with `job_too_large` it has been stopped at the limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.figures import Figure, rounded
from bench.memory.cases import CASES, Case
from ffmpeg_ops.engine import memory

SAMPLE_S = 0.05
TIMEOUT_S = 300


def measure(quick: bool = False) -> list[Figure]:
    return [_figure(case) for case in CASES if case.quick or not quick]


def _figure(case: Case) -> Figure:
    peak_bytes, end = _peak(case)
    megabytes = rounded(peak_bytes / 1e6)
    verdict = "ok" if peak_bytes <= case.limit_bytes and not end.startswith("job_too_large") else "TOO MUCH"
    print(f"{case.name}: {megabytes:g} MB, {verdict}: {end}", file=sys.stderr)
    meaning = f"{verdict}, {end.split()[0]}: {case.meaning}"
    return Figure(case.name, megabytes, "MB", f"≤ {case.limit_bytes / 1e6:g}", meaning)


def _peak(case: Case) -> tuple[int, str]:
    """The peak of the case in bytes, and how its attempt ended."""
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as name, _server(Path(name)) as origin:
        folder = Path(name)
        urls = {param: f"{origin}/{make(folder).name}" for param, make in case.assets.items()}
        limits = {"max_asset_bytes": 2_000_000_000, "max_output_bytes": 2_000_000_000, "timeout_s": TIMEOUT_S}
        delivery = {"job_id": "job_1", "attempt_id": "att_1", "deadline": "2099-01-01T00:00:00Z", "limits": limits}
        raw = {"operation": case.operation, **urls, **case.params, "delivery": delivery}
        command = [sys.executable, "-m", "bench.memory.run_case"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(json.dumps([raw, name, origin]))
            worker.stdin.close()
            peak_bytes = 0
            while worker.poll() is None:
                peak_bytes = max(peak_bytes, memory.resident_bytes([worker.pid]))
                time.sleep(SAMPLE_S)
            return peak_bytes, worker.stdout.read().strip() or f"killed {worker.returncode}"


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Serve the folder on loopback."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
