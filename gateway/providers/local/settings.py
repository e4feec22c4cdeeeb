"""Settings of the provider `local`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from common.settings import http_url, setting


@dataclass(frozen=True)
class LocalSettings:
    """See `.env.example`."""

    PREFIX: ClassVar[str] = "LOCAL_"

    worker_url: str = setting(http_url(), "http://127.0.0.1:3334", "Where the worker of the provider `local` listens.")
