from __future__ import annotations

import random
from pathlib import Path

import pytest

from ffmpeg_ops.engine import flv
from tests.ffmpeg_ops.media import Media, described_twice


@pytest.mark.parametrize(("parts", "changes"), [((0,), False), ((0, 0), False), ((0, 1), True), ((0, 1, 0), True)])
def test_a_changed_description_is_found(parts: tuple[int, ...], changes: bool, media: Media) -> None:
    described_twice(media)
    halves = [media.made(f"half-{i}.flv", f"-i half-{i}.mp4 -c copy -output_ts_offset {i}") for i in range(2)]
    path = media.folder / "parts.flv"
    path.write_bytes(b"".join(halves[i].read_bytes() for i in parts))
    assert flv.changes_description(path) is changes


def test_any_bytes_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "noise.flv"
    for size in (0, 5, 20, 4000):
        path.write_bytes(b"FLV\1" + random.Random(size).randbytes(size))
        assert flv.changes_description(path) in {False, True}
