"""What the stand-in is told. Times are seconds of its own clock."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

# least seconds between two calls of one key
SPACING: Mapping[str, float] = MappingProxyType({"create": 4.5, "show": 2.0, "list": 1.0, "destroy": 3.0})


@dataclass(frozen=True)
class Config:
    """One account and the market around it. `Emulator.configure` replaces single fields while it runs."""

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str = "vast-key-of-the-account"
    credit: float = 25.0  # dollars at the begin
    home: Path | None = None  # logs and folders of the workers; None: a temporary folder

    speed: float = 1.0  # of the clock; 0: only `advance` moves it
    spacing: Mapping[str, float] = field(default_factory=lambda: SPACING)
    searches_a_minute: int = 10
    searches_a_day: int = 1000
    latency_s: float = 0.0  # of every call, in life's seconds

    boot_s: float = 90.0  # from the creation to `running`
    pretend: bool = False  # light workers within this process, which make no video
    job_s: float = 1.0  # what a pretended job takes
    command: tuple[str, ...] = (sys.executable, "-m", "handler.supervisor")
    env: Mapping[str, str] = field(default_factory=dict)  # for the workers, as FETCH_ALLOW_ORIGINS

    list_behind: int = 0  # a listing shows what was true so many listings ago
    public_ip: str = " 127.0.0.1 "
    ports_v6: bool = True  # a `::` row before the other
    ignored_filters: tuple[str, ...] = ()  # of the search, by field; `*` is all of them
    refuse_env_string: bool = False  # else it is dropped in silence
    gone_word: str = "no_such_instance"  # what a destroy of nothing is answered with; or `not_found`
    auth_status: int = 404  # of `auth_error`; or 401
    stop_without_credit: bool = True  # every instance is stopped when the credit is used up
