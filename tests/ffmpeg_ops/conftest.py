"""Small media files, made once, and a private directory to work in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ffmpeg_ops.media import Media, VideoWork
from wire.envelope import Limits


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def work(tmp_path: Path) -> VideoWork:
    directory = tmp_path / "work"
    directory.mkdir()
    shares: list[float] = []
    return VideoWork(directory, Limits(timeout_s=60), progress=shares.append, shares=shares)
