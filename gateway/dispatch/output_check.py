"""Whether the output that a worker reports is stored as it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.domain.attempts import Attempt
from gateway.storage import Storage
from wire.errors import OutputMissing, OutputTooLarge


def check_output(
    storage: Storage, attempt: Attempt, stats: Mapping[str, Any], max_bytes: int
) -> OutputMissing | OutputTooLarge | None:
    """Whether what the worker says it stored is there, and no larger than allowed: S3 takes what it gets.

    Raises StorageUnavailable when that cannot be found out.
    """
    stored = storage.stat(attempt.output_key)
    if stored is None:
        return OutputMissing(detail="nothing is stored under the attempt's key")
    if stored.size_bytes != stats.get("size_bytes"):
        return OutputMissing(detail=f"{stored.size_bytes} bytes are stored, the worker made {stats.get('size_bytes')}")
    if stored.size_bytes > max_bytes:
        return OutputTooLarge(f"The video has {stored.size_bytes} bytes, {max_bytes} are allowed.")
    return None
