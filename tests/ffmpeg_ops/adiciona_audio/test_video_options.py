"""The video stream is copied, cut at the right packet, or extended."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.adiciona_audio.video_options import Cut, Packet, cut
from tests.ffmpeg_ops.adiciona_audio.listen import add, length_s
from tests.ffmpeg_ops.media import Media, VideoWork, ffmpeg, frame_count, frames, stream

slow = partial(pytest.param, marks=pytest.mark.slow)
B_FRAMES = "-c:v libx264 -preset veryfast -bf 3 -x264-params b-adapt=0:b-pyramid=normal:keyint=50 -pix_fmt yuv420p"


def times(work: VideoWork) -> list[tuple[float, float]]:
    """DTS and PTS of every packet of the video stream, in seconds."""
    said = ffmpeg("-i", work.video, "-map", "0:v", "-c", "copy", "-copyts", "-f", "framecrc", "-").decode()
    base = next(line.split(":")[1] for line in said.splitlines() if line.startswith("#tb"))
    tick = float(Fraction(base.strip()))
    rows = [line.split(",") for line in said.splitlines() if not line.startswith("#")]
    return [(int(row[1]) * tick, int(row[2]) * tick) for row in rows]


@pytest.mark.parametrize("container", ["mp4", slow("mkv"), "ts"])
@pytest.mark.parametrize("count", [1, slow(6), 7, 49])
def test_a_stream_with_b_frames_is_cut_at_any_frame(count: int, container: str, media: Media, work: VideoWork) -> None:
    video = media.made(f"b.{container}", f"-f lavfi -i testsrc2=size=96x64:rate=25:d=2 {B_FRAMES}")
    stats = add(work, video, media.tone(count / 25), length="shortest")
    assert stats["encoder"] == "copy"
    got, whole = frames(work.video), frames(video)
    assert count <= len(got) <= count + 4
    assert np.array_equal(got[:count], whole[:count]), "every frame up to the end, and none is missing"
    assert float(stream(work.video, "video")["duration"]) == pytest.approx(count / 25, abs=0.042)
    packets = times(work)
    assert all(later[0] > earlier[0] for earlier, later in pairwise(packets))
    assert all(dts <= pts for dts, pts in packets) and len({pts for _, pts in packets}) == len(packets)
    late = sorted(pts for _, pts in packets)[count:]
    assert all(pts == pytest.approx(count / 25, abs=0.01) for pts in late), (
        "frames needed only for decoding are not seen"
    )


def test_a_cut_keeps_every_packet_needed_before_it() -> None:
    order = [(0, True), (4, False), (2, False), (1, False), (3, False), (8, False), (6, False), (5, False)]
    packets = [Packet(float(pts), key) for pts, key in order]
    assert cut(packets, 9) is None
    assert cut(packets, 4.5) == Cut(5, 5, 1, 0)
    assert cut(packets, 1.5) == Cut(4, 2, 1, 2)
    assert cut(packets, 0.5) == Cut(1, 1, 1, 0)
    assert cut(packets, 0) == Cut(1, 0, 1, 1)
    assert cut([Packet(-1.0, False), *packets], 4.5) == Cut(5, 5, 1, 0), "FFmpeg begins at the first key frame"


def test_the_last_frame_is_held_under_a_longer_sound(media: Media, work: VideoWork) -> None:
    video = media.video(seconds=1.0)
    stats = add(work, video, media.tone(2.0), length="audio")
    assert stats["encoder"] != "copy" and stats["duration_s"] == pytest.approx(2.0, abs=0.02)
    shown = frames(work.video).astype(int)
    assert len(shown) == 50
    assert abs(shown[24] - shown[49]).mean() < 2 < abs(shown[12] - shown[24]).mean()


@pytest.mark.parametrize("seconds", [0.4, 1.6])
def test_an_encoded_video_is_as_long_as_the_sound(seconds: float, media: Media, work: VideoWork) -> None:
    add(work, media.webm(), media.tone(seconds), length="audio")
    assert frame_count(work.video) == pytest.approx(seconds * 25, abs=1)
    assert length_s(work.video) == pytest.approx(seconds, abs=0.02)


def test_hevc_is_copied_and_tagged_for_apple(media: Media, work: VideoWork) -> None:
    x265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p"
    video = media.made("hevc.mkv", f"-f lavfi -i testsrc2=size=96x64:rate=25:d=1 {x265}")
    assert add(work, video, media.tone(1.0))["encoder"] == "copy"
    assert stream(work.video, "video")["codec_tag_string"] == "hvc1"
    assert np.array_equal(frames(work.video), frames(video))


@pytest.mark.parametrize(
    ("name", "options", "copied"),
    [
        ("plain.avi", "-c:v libx264 -preset ultrafast -bf 0 -pix_fmt yuv420p", True),
        ("b.avi", B_FRAMES, False),
        slow("mpeg4.avi", "-c:v mpeg4", False),
        ("prores.mov", "-c:v prores_ks -pix_fmt yuv422p10le", False),
        slow("mjpeg.avi", "-c:v mjpeg -pix_fmt yuvj420p", False),
        ("mpeg2.ts", "-c:v mpeg2video", False),
        ("h264.mov", B_FRAMES, True),
        ("h264.ts", B_FRAMES, True),
        ("h264.mkv", B_FRAMES, True),
    ],
)
@pytest.mark.parametrize("params", [{}, {"mode": "mix", "length": "shortest"}], ids=["whole", "cut"])
def test_other_containers(
    name: str, options: str, copied: bool, params: dict[str, Any], media: Media, work: VideoWork
) -> None:
    video = media.made(name, f"-f lavfi -i testsrc2=size=96x64:rate=25:d=1 -f lavfi -i sine=d=1 {options}")
    stats = add(work, video, media.tone(0.52), **params)
    whole = 1.04 if name in {"plain.avi", "mpeg4.avi", "mjpeg.avi"} else 1.0  # these begin with an empty frame
    seconds = 0.52 if params else whole
    assert (stats["encoder"] == "copy") == (copied and not (params and name.endswith(".avi")))
    assert frame_count(work.video) == pytest.approx(seconds * 25, abs=4 if params else 1)
    assert float(stream(work.video, "video")["duration"]) == pytest.approx(seconds, abs=0.042)
    assert length_s(work.video) == pytest.approx(seconds, abs=0.02)
