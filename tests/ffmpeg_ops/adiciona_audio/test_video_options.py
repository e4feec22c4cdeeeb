"""The video stream is copied, cut at the right packet, or extended."""

from __future__ import annotations

import json
import struct
import subprocess
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.adiciona_audio.video_options import Cut, Packet, cut
from tests.ffmpeg_ops.adiciona_audio.listen import add, length_s
from tests.ffmpeg_ops.media import (
    Media,
    VideoWork,
    described_twice,
    ffmpeg,
    frame_count,
    frames,
    psnr,
    stream,
)

slow = partial(pytest.param, marks=pytest.mark.slow)
B_FRAMES = "-c:v libx264 -preset veryfast -bf 3 -x264-params b-adapt=0:b-pyramid=normal:keyint=50 -pix_fmt yuv420p"


def times(work: VideoWork) -> list[tuple[float, float]]:
    """DTS and PTS of every packet of the video stream, in seconds."""
    said = ffmpeg("-i", work.video, "-map", "0:v", "-c", "copy", "-copyts", "-f", "framecrc", "-").decode()
    base = next(line.split(":")[1] for line in said.splitlines() if line.startswith("#tb"))
    tick = float(Fraction(base.strip()))
    rows = [line.split(",") for line in said.splitlines() if not line.startswith("#")]
    return [(int(row[1]) * tick, int(row[2]) * tick) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("count", [1, 6, 7, 49])
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

    def numbers(found: Cut) -> tuple[float, ...]:
        return (found.packets, found.late, found.last_s, found.end_s, found.next_s)

    assert cut(packets, 9).gap_s == 1
    assert numbers(cut(packets, 9)) == (8, 0, 8, 9, 9)
    assert numbers(cut(packets, 4.5)) == (5, 0, 4, 4.5, 5)
    assert numbers(cut(packets, 1.5)) == (4, 2, 1, 1.5, 2)
    assert numbers(cut(packets, 2.5, 0.6)) == (4, 2, 1, 2.5, 2), "a frame at the end is left out"
    assert numbers(cut(packets, 0.5)) == (1, 0, 0, 0.5, 1)
    assert numbers(cut(packets, 0)) == (1, 1, 0, 0, 0)
    assert cut([Packet(-1.0, False), *packets], 4.5) == cut(packets, 4.5), "FFmpeg begins at the first key frame"
    assert cut([Packet(-1.0, True), *packets], 4.5).hidden == 1


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


@pytest.mark.slow
def test_hevc_is_copied_and_tagged_for_apple(media: Media, work: VideoWork) -> None:
    x265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p"
    video = media.made("hevc.mkv", f"-f lavfi -i testsrc2=size=96x64:rate=25:d=1 {x265}")
    assert add(work, video, media.tone(1.0))["encoder"] == "copy"
    assert stream(work.video, "video")["codec_tag_string"] == "hvc1"
    assert np.array_equal(frames(work.video), frames(video))


@pytest.mark.slow
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


def clip(media: Media, name: str, options: str, start_s: float, seconds: float) -> Path:
    """A film of eight seconds of which an edit list shows a part, as phones trim without encoding."""
    source = f"-f lavfi -i testsrc2=size=96x64:rate=25:d=8 {options}"
    content = bytearray(media.made(f"whole-{name}.mp4", source).read_bytes())
    ticks = int.from_bytes(content[(at := content.index(b"mdhd") + 16) : at + 4])
    at = content.index(b"elst") + 12
    first = int.from_bytes(content[at + 4 : at + 8])  # of the first frame, after the encoder's delay
    struct.pack_into(">II", content, at, round(seconds * 1000), first + round(start_s * ticks))
    path = media.folder / f"{name}-{start_s}-{seconds}.mp4"
    path.write_bytes(content)
    return path


PLAIN = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"


@pytest.mark.slow
@pytest.mark.parametrize("start_s", [0.0, 3.0, 3.2, 6.0])
@pytest.mark.parametrize("name", ["one-key", "b-frames"])
def test_only_what_an_edit_list_shows_is_used(name: str, start_s: float, media: Media, work: VideoWork) -> None:
    options = f"{PLAIN} -g 250" if name == "one-key" else f"{B_FRAMES} -g 25"
    video = clip(media, name, options, start_s, 2.0)
    stats = add(work, video, media.tone(1.0))
    assert (stats["encoder"], stats["duration_s"]) == ("copy", 2.0)
    assert stats["frames"] == frame_count(work.video) == pytest.approx(50, abs=4)
    assert np.array_equal(frames(work.video)[:50], frames(video)[:50])
    assert float(stream(work.video, "video")["duration"]) == pytest.approx(2.0, abs=0.002)
    assert length_s(work.video) == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("params", [{"length": "shortest"}, {"encoding": {"quality": "low"}}], ids=["cut", "encoded"])
def test_what_an_edit_list_hides_stays_hidden(params: dict[str, Any], media: Media, work: VideoWork) -> None:
    video = clip(media, "one-key", f"{PLAIN} -g 250", 3.0, 2.0)
    stats = add(work, video, media.tone(1.0), **params)
    seconds = 1 if "length" in params else 2
    assert stats["frames"] == frame_count(work.video) == pytest.approx(25 * seconds, abs=1)
    assert psnr(frames(work.video)[:25], frames(video)[:25]) > 25


def slideshow(media: Media, name: str) -> Path:
    """A second in motion, then a still of four seconds."""
    source = "-f lavfi -i testsrc2=size=96x64:rate=25:d=5 -vf select='lt(t\\,1)+gte(t\\,4.96)' -fps_mode vfr"
    codec = "libvpx -deadline realtime -cpu-used 8" if name.endswith("webm") else "libx264 -pix_fmt yuv420p"
    return media.made(name, f"{source} -c:v {codec}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slides.mp4", "slides.mkv", "slides.webm"])
@pytest.mark.parametrize(
    ("seconds", "params"),
    [(2.0, {}), (2.3, {"encoding": {"quality": "low"}}), (0.5, {}), (4.5, {"start": 0.1}), (7.0, {})],
)
def test_the_picture_ends_with_the_sound_inside_a_long_frame(
    name: str, seconds: float, params: dict[str, Any], media: Media, work: VideoWork
) -> None:
    length = seconds + params.get("start", 0)
    stats = add(work, slideshow(media, name), media.tone(seconds), length="audio", **params)
    assert stats["duration_s"] == pytest.approx(length, abs=0.02)
    assert float(stream(work.video, "video")["duration"]) == pytest.approx(length, abs=0.02)
    assert length_s(work.video) == pytest.approx(length, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["1/4", "1"])
@pytest.mark.parametrize("seconds", [0.5, 2.3, 6.5])
def test_slow_frames_end_with_the_sound(rate: str, seconds: float, media: Media, work: VideoWork) -> None:
    video = media.made(f"slow-{rate[-1]}.mp4", f"-f lavfi -i testsrc2=size=96x64:rate={rate}:d=4 {PLAIN}")
    for more in ({}, {"encoding": {"quality": "low"}}):
        stats = add(work, video, media.tone(seconds), length="audio", **more)
        assert stats["duration_s"] == pytest.approx(seconds, abs=0.02)
        assert float(stream(work.video, "video")["duration"]) == pytest.approx(seconds, abs=0.02)


@pytest.mark.parametrize("codec", ["libx264 -preset ultrafast", slow("libx265 -x265-params log-level=none")])
@pytest.mark.parametrize("container", ["mp4", slow("mkv"), slow("ts")])
@pytest.mark.parametrize("changes", [True, False])
def test_a_copied_video_has_one_size(changes: bool, container: str, codec: str, media: Media, work: VideoWork) -> None:
    """Players of MP4 stretch what follows, or show nothing: where the size changes, the video is encoded."""
    name, parts = f"{codec[:7]}-{changes}", b""
    for i, size in enumerate(("96x64", "64x96" if changes else "96x64")):
        source = f"-f lavfi -i color=white:size={size}:rate=25:d=1 -c:v {codec} -bf 0 -pix_fmt yuv420p"
        parts += media.made(f"{name}-{i}.ts", f"{source} -output_ts_offset {i}").read_bytes()
    (both := media.folder / f"{name}.ts").write_bytes(parts)
    video = media.made(f"{name}-both.{container}", f"-i {both.name} -c copy")
    stats = add(work, video, media.tone(1.0))
    assert (stats["encoder"] == "copy") is not changes
    assert {(s["width"], s["height"]) for s in sizes(work.video)} == {(96, 64)}
    shown = frames(work.video)
    assert len(shown) == stats["frames"] == 50
    assert (shown[40, 32, 5] < 40 < 200 < shown[40, 32, 48]) if changes else (shown[40] > 200).all()
    assert work.shares == sorted(work.shares) and work.shares[-1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("container", ["mp4", "flv"])
def test_a_video_that_is_described_twice_is_encoded(container: str, media: Media, work: VideoWork) -> None:
    """A copy has the first description only: its second half could not be decoded."""
    video = described_twice(media)
    if container == "flv":
        halves = [media.made(f"half-{i}.flv", f"-i half-{i}.mp4 -c copy -output_ts_offset {i}") for i in range(2)]
        video = media.folder / "described-twice.flv"
        video.write_bytes(halves[0].read_bytes() + halves[1].read_bytes()[13:])
    stats = add(work, video, media.tone(1.0))
    assert stats["frames"] == 50 and stats["duration_s"] == pytest.approx(2, abs=0.05)
    for shown, half in zip((frames(work.video)[:25], frames(work.video)[25:]), range(2), strict=True):
        assert psnr(shown, frames(media.folder / f"half-{half}.mp4")) > 25


def sizes(path: Path) -> list[dict[str, Any]]:
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", "v", "-show_frames", str(path)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found["frames"]  # type: ignore[no-any-return]
