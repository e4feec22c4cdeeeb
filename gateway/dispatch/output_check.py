"""Checks that the outputs of an attempt are stored as the worker reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job
from gateway.storage import Storage
from wire.errors import JobError, OutputInvalid, OutputMissing, OutputTooLarge


def check_outputs(
    storage: Storage, job: Job, attempt: Attempt, result: Mapping[str, Any], max_bytes: int
) -> JobError | None:
    """Return what is wrong with the outputs that `result` reports, or None. S3 enforces no size, so it is checked here.

    Raises StorageUnavailable.
    """
    reported = result["outputs"]
    if others := sorted(set(reported) - set(job.outputs)):
        return OutputInvalid(f"The worker reported outputs that the operation does not declare: {', '.join(others)}.")
    total = 0
    for name, output in job.outputs.items():
        stored = storage.size(attempt.output_key(name, output))
        size = reported.get(name, {}).get("size_bytes")
        if stored is None or size is None:
            return _missing(name, "nothing is stored under its key" if stored is None else "it was not reported")
        if stored != size:
            return _missing(name, f"{stored} bytes are stored, the worker made {size}")
        total += size
    if total > max_bytes:
        return OutputTooLarge(f"The outputs together have {total} bytes; at most {max_bytes} are allowed.")
    return None


def _missing(name: str, detail: str) -> OutputMissing:
    return OutputMissing(f"The worker reported success, but the output {name} is not stored completely.", detail=detail)
