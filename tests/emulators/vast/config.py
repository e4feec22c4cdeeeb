"""The configuration of the stand-in. Times are seconds of its own clock."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

# minimum seconds between two calls with one key
SPACING: Mapping[str, float] = MappingProxyType({"create": 4.5, "show": 2.0, "list": 1.0, "destroy": 3.0})


@dataclass(frozen=True)
class Config:
    """One account and the market around it. `Emulator.configure` replaces single fields while it runs."""

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str = "vast-key-of-the-account"
    credit: float = 25.0  # dollars at the start
    home: Path | None = None  # logs and folders of the workers; None: a temporary folder

    speed: float = 1.0  # of the clock; 0: only `advance` moves it
    spacing: Mapping[str, float] = field(default_factory=lambda: SPACING)
    searches_a_minute: int = 10
    searches_a_day: int = 1000  # until midnight UTC

    boot_s: float = 90.0  # from the creation to `running`
    pretend: bool = False  # light workers in this process that make no video
    job_s: float = 1.0  # duration of a pretended job
    command: tuple[str, ...] = (sys.executable, "-m", "handler.supervisor")
    env: Mapping[str, str] = field(default_factory=dict)  # for the workers, such as FETCH_ALLOW_ORIGINS

    image_bytes: int = 500_000_000  # pulled for each instance, and billed like all traffic from and to its machine
    fetched_bytes: int = 0  # by each pretended job; they upload a few bytes

    # NVENC refuses on slices with the drivers 570 to 609 (see market.py), and on the machines with these ids.
    refusing_machines: Collection[int] = ()
    refusing_env: Mapping[str, str] = field(default_factory=dict)  # for the workers on all these, besides `env`

    list_behind: int = 0  # a listing shows the state of so many listings ago
