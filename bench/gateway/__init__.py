"""One gateway on two cores: requests per second compared with a bare route, memory, and 5,000 jobs in flight.

The gateway runs as in production, with its dispatcher and with SQLite syncing every commit. Its provider is the
stand-in for RunPod, which takes 150 ms for every call; the workers do no real work.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.figures import Figure
from bench.gateway import answers, flight
from bench.gateway.sizes import Sizes


def measure(sizes: Sizes = Sizes()) -> list[Figure]:  # noqa: B008 - it is frozen
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as folder:
        return [*answers.measure(Path(folder), sizes), *flight.measure(Path(folder), sizes)]
