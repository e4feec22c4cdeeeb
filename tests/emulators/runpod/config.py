"""The configuration of the stand-in. Defaults are those of the platform; times are seconds unless the name says otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

WINDOW_S = 10.0
# calls per ten seconds
LIMITS: Mapping[str, int] = MappingProxyType({"run": 1000, "status": 2000, "cancel": 100, "purge-queue": 2})


@dataclass(frozen=True)
class Config:
    """One endpoint and the platform around it. `Emulator.configure` replaces single fields while it runs."""

    host: str = "127.0.0.1"
    port: int = 0
    endpoint_id: str = "emulated1"
    api_key: str = "rpa_emulated"
    worker_key: str = "key-of-the-workers-alone"

    min_workers: int = 0
    max_workers: int = 2
    idle_timeout_s: float = 300.0
    queue_delay_s: float = 4.0
    cold_start_s: float = 3.0  # until the worker's process starts
    crash_pause_s: float = 10.0  # until a worker that ended before its first job is started again
    command: tuple[str, ...] = (sys.executable, "-m", "handler")
    env: Mapping[str, str] = field(default_factory=dict)
    home: Path | None = None  # logs, work and outputs of the workers; None: a temporary folder

    latency_ms: float = 150.0
    long_poll_s: float = 25.0
    ping_interval_s: int = 1  # the SDK knows whole seconds only
    lost_after_s: float = 15.0  # a job that no ping names for so long is lost; a worker without any call is killed
    max_retries: int = 1  # for a job whose worker was lost

    execution_timeout_s: float = 600.0
    ttl_s: float = 86400.0
    result_s: float = 1800.0
    max_result_bytes: int = 20_000_000
    max_queued: int = 50  # and at least max_queued_per_worker × max_workers
    max_queued_per_worker: int = 500
    limits: Mapping[str, int] = field(default_factory=lambda: LIMITS)
