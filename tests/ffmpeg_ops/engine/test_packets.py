from __future__ import annotations

import pytest

from ffmpeg_ops.engine import packets
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, frame_times

REORDERED = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=2 -c:v libx264 -bf 3 -pix_fmt yuv420p"


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_frames_are_in_the_order_in_which_they_are_shown(name: str, media: Media, work: Work) -> None:
    video = media.made(f"shown-{name}", REORDERED)
    assert list(packets.frame_times(video, 0, work)) == pytest.approx(frame_times(video), abs=0.001)
    assert packets.count_frames(video, 0, work) == 50


def test_no_more_than_a_million_frames_are_kept(media: Media, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MAX_FRAMES", 10)
    assert len(packets.frame_times(media.made("shown-b.mp4", REORDERED), 0, work)) == 10


def test_frames_of_a_file_that_cannot_be_read_are_not_counted(work: Work) -> None:
    (path := work.directory / "asset-url_video").write_bytes(b"no video")
    assert packets.count_frames(path, 0, work) is None
