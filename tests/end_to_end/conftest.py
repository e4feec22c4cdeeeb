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
MakeClient = Callable[[Stack], Client]
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
    add_samples(files)
    return files


def add_samples(files: FileServer) -> None:
    for path in SAMPLES.iterdir():
        files.routes[f"/{path.name}"] = Reply(body=path.read_bytes())


@pytest.fixture
def client() -> Iterator[MakeClient]:
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


def encoding(client: Client, files: FileServer) -> dict[str, Any]:
    """A job that a worker is encoding, for several seconds."""
    job = client.submit("img2vid", {"url_image": files.url("/photo.jpg"), "duration": 8, "frame_rate": 30})
    eventually(lambda: client.job(job["jobId"])["progress"] > 0.05)
    return job
