"""Requests per second, their latency, and the memory in use after them."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Figure, rounded
from bench.gateway.client import Load, Report, drive, request
from bench.gateway.sizes import JOB, Sizes, gateway, on_few_cores, post, tree_mb
from scripts.stack import ROOT, Stack, free_port
from tests.servers import eventually, responds

THREADS = 16  # for both servers: the default
SAMPLE = 500


def measure(folder: Path, sizes: Sizes) -> list[Figure]:
    with gateway(folder / "answers", THREADS=str(THREADS)) as (stack, _), bare_route() as port:
        fresh_mb = resident_mb(stack)
        ours = Load(stack.port, (post(stack),), sizes.connections, count=sizes.warm_up)
        known = drive(ours).locations[-SAMPLE:]
        idle_mb = resident_mb(stack)
        posts, bares, gets = [], [], []
        bare = request("POST", "/video/img2vid", {"X-API-Key": stack.api_key}, JOB)
        looks = tuple(request("GET", path, {"X-API-Key": stack.api_key}) for path in known)
        for _ in range(sizes.runs):
            bares.append(drive(Load(port, (bare,), sizes.connections, seconds=sizes.seconds)))
            posts.append(drive(Load(stack.port, (post(stack),), sizes.connections, seconds=sizes.seconds)))
            gets.append(drive(Load(stack.port, looks, sizes.connections, seconds=sizes.seconds)))
        done = sizes.warm_up + sum(len(report.took_ms) for report in [*posts, *gets])
        left = max(0, sizes.requests - done)
        if left:
            drive(Load(stack.port, looks, sizes.connections, count=left))
        after_mb = resident_mb(stack)
    print(
        f"POST {_shown(posts)}; bare {_shown(bares)}; GET {_shown(gets)}; {done + left} requests:"
        f" {fresh_mb:.1f} MB at the start, {idle_mb:.1f} after {sizes.warm_up}, {after_mb:.1f} at the end",
        file=sys.stderr,
    )
    post_s, bare_s, get_s = (statistics.median(r.per_s for r in reports) for reports in (posts, bares, gets))
    p99_ms = statistics.median(report.p99_ms for report in posts)
    return [
        Figure("gateway.post_per_s", rounded(post_s), "1/s", "≥ 300", "jobs accepted, each after its commit"),
        Figure("gateway.post_p99_ms", rounded(p99_ms), "ms", "≤ 250", f"the same, {sizes.connections} at a time"),
        Figure("gateway.bare_per_s", rounded(bare_s), "1/s", "", "a bare route of Flask and gunicorn"),
        Figure("gateway.post_ratio", rounded(post_s / bare_s), "×", "", "POST ÷ the bare route"),
        Figure("gateway.get_per_s", rounded(get_s), "1/s", "", "reads of a job"),
        Figure("gateway.rss_mb", rounded(after_mb), "MB", "≤ 170", f"all processes, after {done + left} requests"),
        Figure(
            "gateway.rss_growth",
            round(after_mb / idle_mb - 1, 3),
            "",
            "≤ 0.05",
            f"since the first {sizes.warm_up}, after which all threads exist",
        ),
    ]


def resident_mb(stack: Stack) -> float:
    """Memory of all processes of the gateway."""
    return tree_mb(stack.process("gateway").pid)


@contextmanager
def bare_route() -> Iterator[int]:
    """The port of a server with one route and the gateway's own settings for gunicorn."""
    port = free_port()
    command = [sys.executable, "-m", "bench.gateway.bare", str(port), str(THREADS)]
    with on_few_cores():
        server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        eventually(lambda: responds(f"http://127.0.0.1:{port}/"))
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _shown(reports: list[Report]) -> str:
    return ", ".join(f"{report.per_s:.0f}/s ({report.p99_ms:.0f} ms)" for report in reports)
