"""A live gateway with a worker, its documents, and the programs that make clients of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from scripts.stack import Stack
from tests.conftest import ROOT, SAMPLES

HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"
NODE_MODULES = HERE / "node_modules"
PYTHON = ROOT / ".venv-clients/bin/python"
LIMIT_S = 180.0  # reached only by a program that hangs


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    if not (PYTHON.exists() and NODE_MODULES.is_dir()) and not os.environ.get("CI"):
        pytest.skip("`make test-clients` installs the generators")


class Failed(AssertionError):
    """A program exited with another status than 0, or did not end. The message is its output."""


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run one of the installed programs to its end and return its output. Raises Failed."""
    found = os.pathsep.join([str(NODE_MODULES / ".bin"), str(PYTHON.parent), os.environ["PATH"]])
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    with subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **quiet, "PATH": found, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # with the Java or Node.js that it started
            raise
    if process.returncode:
        raise Failed(f"{command[0]} exited with {process.returncode}:\n{output}")
    return output


@pytest.fixture(scope="session")
def stack(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway and a worker with FFmpeg."""
    home = tmp_path_factory.mktemp("stack")
    with Stack(home / "data", home / "logs") as started:
        yield started


@pytest.fixture(scope="session")
def documents(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the documents of the live gateway."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("openapi.json", "openapi-worker.json"):
        response = requests.get(f"{stack.url}/{name}", timeout=30)
        assert response.status_code == 200, response.text
        (folder / name).write_bytes(response.content)
    return folder


@pytest.fixture
def document(documents: Path) -> Path:
    """The document for clients, as the live gateway serves it."""
    return documents / "openapi.json"


@pytest.fixture
def target(stack: Stack) -> dict[str, str]:
    """Environment variables that tell a driver what to call."""
    return {"GATEWAY_URL": stack.url, "API_KEY": stack.api_key, "PHOTO": str(SAMPLES / "photo.jpg")}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which TypeScript finds the installed packages."""
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    return tmp_path


def copy_driver(name: str, folder: Path) -> Path:
    return Path(shutil.copy(DRIVERS / name, folder / name))
