"""Fixtures of tests with real processes: gunicorn, a worker, FFmpeg, HTTP on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.client import Client
from scripts.stack import Stack
from tests.conftest import SAMPLES
from tests.servers import FileServer, Reply, eventually

MakeStack = Callable[..., Stack]
FINISHED = {"completed", "failed", "cancelled"}


@pytest.fixture
def make_stack(tmp_path: Path, files: FileServer) -> Iterator[MakeStack]:
    """Makes stacks that are not started yet; they are stopped at the end."""
    made: list[Stack] = []

    def make(**environ: str) -> Stack:
        origins = {"FETCH_ALLOW_ORIGINS": files.origin}
        made.append(Stack(tmp_path / "data", tmp_path / "logs", environ={**origins, **environ}))
        return made[-1]

    yield make
    for stack in made:
        stack.stop()


@pytest.fixture
def sample_files(files: FileServer) -> FileServer:
    """A file server with the samples."""
    for path in SAMPLES.iterdir():
        files.routes[f"/{path.name}"] = Reply(body=path.read_bytes())
    return files


@pytest.fixture
def client() -> Iterator[Callable[[Stack], Client]]:
    made: list[Client] = []

    def make(stack: Stack) -> Client:
        made.append(Client(stack.url, stack.api_key))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ended(client: Client, job: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
    """The job once it has finished."""
    eventually(lambda: client.job(job["jobId"])["status"] in FINISHED, seconds)
    return client.job(job["jobId"])


def until(client: Client, job: dict[str, Any], check: Callable[[dict[str, Any]], bool], seconds: float = 30) -> None:
    eventually(lambda: check(client.job(job["jobId"])), seconds)
