from __future__ import annotations

from pathlib import Path

import pytest

from ffmpeg_ops.engine import inspect, joined, packets
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, broadcasts


@pytest.mark.parametrize(
    "begin_s",
    [
        pytest.param((0, 0), marks=pytest.mark.slow),
        pytest.param((0, 3000), marks=pytest.mark.slow),
        (3000, 0),
        (0, 0, 50, 0),
    ],
)
def test_joined_parts_become_continuous(begin_s: tuple[int, ...], media: Media, work: Work) -> None:
    said: list[str] = []
    path = joined.continuous(broadcasts(media, *begin_s), "url_video", work, said.append)
    _, video = inspect.video_asset(path, "url_video", work)
    assert video.duration_s == pytest.approx(len(begin_s), abs=0.05)
    assert packets.count_frames(path, video.index, work) == 25 * len(begin_s)
    assert said == ["url_video: its timestamps jump; its parts were joined"]


def test_other_files_are_left_alone(media: Media, tmp_path: Path, work: Work) -> None:
    noise = tmp_path / "noise.ts"
    noise.write_bytes((b"G" + bytes(187)) * 50)
    late = media.made("late.mpg", f"-i {media.video().name} -c:v mpeg2video -c:a mp2 -output_ts_offset 60")
    for path in (media.video(), broadcasts(media, 0), broadcasts(media, 3000), late, noise):
        said: list[str] = []
        assert joined.continuous(path, "url_video", work, said.append) == path and not said
