"""Runs one case in a process of its own, as a worker runs an attempt, and prints the code that it ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.memory.cases import LARGE_BYTES
from common import log
from handler.attempt import run_attempt
from handler.settings import Settings
from wire.errors import JobError


def main() -> None:
    log.configure("WARNING")  # to standard error
    raw, folder, origin = json.load(sys.stdin)
    settings = Settings(
        work_dir=Path(folder) / "work",
        output_dir=Path(folder) / "output",
        fetch_allow_origins=(origin,),
        worker_max_memory_bytes=LARGE_BYTES,
    )
    try:
        run_attempt(raw, settings)
        print("completed")
    except JobError as error:
        print(error.code, error.message)


if __name__ == "__main__":
    main()
