"""Small media files, made once, and a private directory to work in."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media
from wire.envelope import Limits


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    directory = tmp_path / "work"
    directory.mkdir()
    return Work(directory, Limits(timeout_s=60))
