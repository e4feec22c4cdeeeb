"""The configuration of the stand-in. Times are seconds of its own clock."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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

    boot_s: float = 90.0  # from the creation to `running`
    pretend: bool = False  # light workers in this process that make no video
    job_s: float = 1.0  # duration of a pretended job
    command: tuple[str, ...] = (sys.executable, "-m", "handler.supervisor")
    env: Mapping[str, str] = field(default_factory=dict)  # for the workers, such as FETCH_ALLOW_ORIGINS

    list_behind: int = 0  # a listing shows the state of so many listings ago
