"""Fixtures for the endpoint: RunPod's stand-in, a file of one's own, and the commands run against both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from gateway import create_app
from gateway.providers.runpod.settings import RunPodSettings
from gateway.settings import Settings
from tests.conftest import ROOT
from tests.emulators.runpod.management import Management, management

IMAGE = "acme/reelay-worker:0.1.0-1a2b3c4"


@pytest.fixture
def runpod() -> Iterator[Management]:
    with management() as account:
        yield account


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The repository's runpod.toml, with an image that can be pulled."""
    path = tmp_path / "runpod.toml"
    path.write_text((ROOT / "runpod.toml").read_text().replace("YOUR-ACCOUNT/reelay-worker:0.1.0", IMAGE))
    return path


@pytest.fixture
def edit(file: Path) -> Callable[..., None]:
    """`edit("max_workers = 10", "max_workers = 2")`, as an operator would."""

    def edit(old: str, new: str) -> None:
        text = file.read_text()
        assert text.count(old) == 1, old
        file.write_text(text.replace(old, new))

    return edit


@pytest.fixture
def settings(tmp_path: Path, runpod: Management) -> Settings:
    return Settings(
        providers=("local",),
        secret_key=("x" * 32,),
        data_dir=tmp_path / "data",
    ).with_parts(RunPodSettings(api_key=runpod.key, management_base=runpod.base))


@pytest.fixture
def call(settings: Settings, file: Path) -> Callable[..., Result]:
    """`call("plan", "--check", endpoint_id=…)`: the command with this file, and settings changed as asked."""

    def call(command: str, *words: str, **changed: Any) -> Result:
        own = replace(settings.of(RunPodSettings), **changed)
        app: Flask = create_app(settings.with_parts(own))
        return app.test_cli_runner().invoke(args=["runpod", command, "--file", str(file), *words])

    return call
