"""Fixtures for all tests, which connect to loopback only."""

from __future__ import annotations

import gc
import io
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from common import log
from tests.nvenc_driver import nvenc, nvenc_libraries
from tests.servers import FileServer, file_server

__all__ = ["nvenc", "nvenc_libraries"]  # fixtures

# The same examples every time in CI, new ones at every run elsewhere.
settings.register_profile("judged", derandomize=True, deadline=None)
settings.register_profile("exploring", deadline=None)
settings.load_profile("judged" if os.environ.get("CI") else "exploring")

# Tests create applications by the thousand; collecting garbage less often saves an eighth of the time.
gc.set_threshold(50_000, 20, 100)

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # the collected tests are never garbage


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to anything but this machine."""
    dial = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test connected to {address}")
        dial(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(autouse=True)
def no_log_context() -> None:
    """Clear what other tests have bound to log lines."""
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def files() -> Iterator[FileServer]:
    """A file server on loopback."""
    with file_server() as server:
        yield server


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged from now on, by libraries too, at level DEBUG."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level, config = root.level, structlog.get_config()
    stream = io.StringIO()
    log.configure("DEBUG", json=True, stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**config)


@pytest.fixture
def samples() -> Path:
    return SAMPLES
