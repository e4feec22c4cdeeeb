"""`convert` keeps what it is not told to change."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ffmpeg_ops.engine.clips.numbered import numbered, numbers_in
from tests.ffmpeg_ops.media import (
    HDR,
    X264,
    Media,
    VideoWork,
    audio_length_s,
    cut_off,
    frame_times,
    frames,
    hdr,
    packets_md5,
    psnr,
    run,
    stream,
    streams,
)
from wire.errors import AssetInvalid


@pytest.mark.slow
def test_without_params_all_frames_their_times_and_the_sound_stay(media: Media, work: VideoWork) -> None:
    source = "-f lavfi -i sine=sample_rate=44100:duration=2 -ac 1 -c:a aac"
    times = "setpts='(N+gte(N,10)*7)/25/TB' -fps_mode vfr -enc_time_base 1/1000"
    video = media.made("vfr.mp4", f"-i {numbered(media, 30).name} {source} -vf {times} {X264} -qp 8")
    stats = run("convert", work, url_video=video)
    assert numbers_in(work.video) == list(range(30))
    assert frame_times(work.video) == pytest.approx(frame_times(video), abs=0.0011)
    assert packets_md5(work.video, "a") == packets_md5(video, "a")
    assert (stats["frames"], stats["width"], stats["height"], stats["encoder"]) == (30, 64, 48, "libx264")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "found"), [(None, (128, 48)), ("64x64", (64, 64))])
def test_pixels_become_square(size: str | None, found: tuple[int, int], media: Media, work: VideoWork) -> None:
    wide = media.made("wide.mp4", f"-i {numbered(media, 5).name} -vf setsar=2 {X264} -qp 8")
    run("convert", work, {"size": size}, url_video=wide)
    made = stream(work.video, "video")
    assert (made["width"], made["height"], made.get("sample_aspect_ratio", "1:1")) == (*found, "1:1")
    assert [made[tag] for tag in ("color_space", "color_primaries", "color_transfer")] == ["bt709"] * 3


@pytest.mark.slow
def test_pixels_that_keep_their_size_are_not_resampled(media: Media, work: VideoWork) -> None:
    video = media.video("96x64", 0.4)
    run("convert", work, {"encoding": {"quality": "best"}}, url_video=video)
    assert psnr(frames(work.video), frames(video)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["cover", "contain"])
def test_a_rotated_video_becomes_landscape(fit: str, media: Media, work: VideoWork) -> None:
    run("convert", work, {"size": "320x180", "fit": fit, "background": "#000000"}, url_video=media.rotated())
    found = frames(work.video)[5]
    assert found.shape == (180, 320)
    assert (found[90, 10] < 30) == (fit == "contain") and 110 < found[90, 160] < 145


@pytest.mark.slow
def test_a_frame_rate_is_constant_and_stays_in_time(media: Media, work: VideoWork) -> None:
    """Frames are repeated where a video pauses; its sound is kept."""
    times = "setpts='(N+gte(N,10)*5)/25/TB' -fps_mode vfr -enc_time_base 1/1000"
    sound = "-f lavfi -i sine=duration=1 -c:a aac"
    video = media.made("pause.mp4", f"-i {numbered(media, 20).name} {sound} -vf {times} {X264} -qp 8")
    stats = run("convert", work, {"frame_rate": 50}, url_video=video)
    assert numbers_in(work.video) == [n for n in range(20) for _ in range(12 if n == 9 else 2)]
    assert np.diff(frame_times(work.video)) == pytest.approx(0.02, abs=1e-4)
    assert stream(work.video, "video")["r_frame_rate"] == "50/1" and stats["duration_s"] == 1.0
    assert audio_length_s(work.video) == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "extension"), [(f"{X264} -bf 2", "h264"), ("-c:v mpeg4 -q:v 2", "avi"), (f"{X264} -bf 2", "ts")]
)
def test_containers_that_time_frames_otherwise(codec: str, extension: str, media: Media, work: VideoWork) -> None:
    video = numbered(media, 20, options=codec, extension=extension)
    for rate in (None, 25):
        run("convert", work, {"frame_rate": rate}, url_video=video)
        assert numbers_in(work.video) == list(range(20))
        assert np.diff(frame_times(work.video)) == pytest.approx(0.04, abs=1e-3)


@pytest.mark.slow
def test_a_late_picture_stays_in_sync(media: Media, work: VideoWork) -> None:
    """Its first frame is shown from the start then, as players do."""
    sound = "-f lavfi -i sine=duration=1 -c:a flac"
    video = media.made("late.mkv", f"-itsoffset 0.4 -i {numbered(media, 15).name} {sound} {X264} -qp 8")
    run("convert", work, {"frame_rate": 25}, url_video=video)
    assert numbers_in(work.video) == [0] * 10 + list(range(15))


def test_no_sound_is_kept_if_none_is_wanted(media: Media, work: VideoWork) -> None:
    run("convert", work, {"sound": "none", "size": "64x64"}, url_video=media.video())
    assert [s["codec_type"] for s in streams(work.video)] == ["video"]


@pytest.mark.slow
@pytest.mark.parametrize("transfer", HDR)
def test_hdr_becomes_bright_sdr(transfer: str, media: Media, work: VideoWork) -> None:
    run("convert", work, {"size": "160x160", "fit": "contain", "background": "#000000"}, url_video=hdr(media, transfer))
    found = frames(work.video)[5]
    assert found[60:100, 90:150].mean() > 215 and found[60:100, 10:70].mean() < 20
    assert stream(work.video, "video")["color_transfer"] == "bt709"


@pytest.mark.slow
@pytest.mark.parametrize("rate", [None, 30])
def test_a_video_that_is_cut_off_is_refused(rate: int | None, media: Media, work: VideoWork) -> None:
    source = f"-f lavfi -i testsrc2=size=320x180:rate=25:duration=4 {X264} -movflags +faststart"
    with pytest.raises(AssetInvalid, match="damaged or cut off"):
        run("convert", work, {"frame_rate": rate}, url_video=cut_off(media, "whole-4.mp4", source, 0.5))


@pytest.mark.slow
def test_codec_and_size_in_bytes(media: Media, work: VideoWork) -> None:
    encoding = {"codec": "hevc", "max_bytes": 90_000}
    stats = run("convert", work, {"encoding": encoding}, url_video=media.video("320x180", 4.0))
    assert stream(work.video, "video")["codec_name"] == "hevc" and stats["size_bytes"] <= 90_000
