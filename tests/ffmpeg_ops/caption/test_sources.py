"""Whatever the source is: its frames, their times and its sound are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ffmpeg_ops.media import (
    Media,
    VideoWork,
    audio_length_s,
    broadcasts,
    damaged,
    frame_count,
    frame_times,
    frames,
    packets_md5,
    recorded,
    run,
    samples_of,
    stream,
    streams,
    with_tracks,
)

SRT = "1\n00:00:00,000 --> 00:20:00,000\nTexto\n"
X264 = "-c:v libx264 -preset ultrafast"
SECOND = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1"
TONE = "-f lavfi -i sine=duration=1"


def caption(work: VideoWork, video: Path, text: str = SRT, **style: Any) -> dict[str, Any]:
    params = {"subtitles": text, **({"style": style} if style else {})}
    return run("caption", work, params, url_video=video)


def kinds(path: Path) -> list[str]:
    return [s["codec_type"] for s in streams(path)]


@pytest.mark.parametrize(
    ("seconds", "extension"), [(4, "mp4"), (4, "mkv"), pytest.param(600, "mp4", marks=pytest.mark.slow)]
)
def test_frames_at_uneven_times_keep_their_times(seconds: int, extension: str, media: Media, work: VideoWork) -> None:
    """As phones and screen recorders make them."""
    source = f"-f lavfi -i testsrc2=size=64x48:rate=30:duration={seconds} -f lavfi -i sine=duration={seconds}"
    some = "-vf select='gt(random(7)\\,0.6)' -fps_mode vfr -bf 0 -pix_fmt yuv420p -c:a aac"
    video = media.made(f"uneven-{seconds}.{extension}", f"{source} {X264} {some}")
    caption(work, video)
    before, after = frame_times(video), frame_times(work.video)
    assert len(after) > 8 * seconds and after == pytest.approx(before, abs=0.001)
    if extension == "mp4":
        assert packets_md5(work.video, "a") == packets_md5(video, "a")
        assert float(stream(work.video, "audio")["duration"]) == pytest.approx(seconds, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "codecs", "sound"),
    [
        ("a.mp4", f"{X264} -pix_fmt yuv420p -r 30000/1001 -c:a aac", "aac"),
        ("a.mkv", "-c:v libx264 -c:a flac", "aac"),
        ("a.mov", "-c:v prores_ks -profile:v 0 -c:a pcm_s16le", "aac"),
        ("a.avi", "-c:v mpeg4 -c:a mp3", "mp3"),
        ("a.ts", "-c:v mpeg2video -c:a mp2", "aac"),
        ("a.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -c:a libvorbis", "aac"),
        ("live.webm", "", "aac"),
        ("a.h264", f"{X264} -pix_fmt yuv420p -an", ""),
    ],
)
def test_any_container_and_codec_becomes_mp4(name: str, codecs: str, sound: str, media: Media, work: VideoWork) -> None:
    video = media.made(name, f"{SECOND} {TONE} {codecs}") if codecs else media.live()
    stats = caption(work, video)
    assert stats["frames"] == frame_count(video) == frame_count(work.video) == (30 if name == "a.mp4" else 25)
    if not sound:
        assert kinds(work.video) == ["video"]
        return
    assert stream(work.video, "audio")["codec_name"] == sound
    assert audio_length_s(work.video) == pytest.approx(1, abs=0.08)
    assert "warnings" not in stats
    if name == "a.mp4":
        assert stream(work.video, "video")["avg_frame_rate"] == "30000/1001"
        assert packets_md5(work.video, "a") == packets_md5(video, "a")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "codec"), [("camera.avi", "mjpeg -pix_fmt yuvj420p"), ("camera.mxf", "mpeg2video")])
def test_sound_that_is_encoded_keeps_its_time_to_the_sample(
    name: str, codec: str, media: Media, work: VideoWork
) -> None:
    """The time base of these containers is a whole frame, which is too coarse for sound."""
    sound = "-f lavfi -i aevalsrc=gt(t\\,0.5)*sin(2*PI*1000*t):s=48000:d=1"
    caption(work, media.made(name, f"{SECOND} {sound} -c:v {codec} -c:a pcm_s16le"))
    loud = np.flatnonzero(np.abs(samples_of(work.video)) > 16000)
    assert loud[0] == pytest.approx(24_000, abs=48)
    assert float(stream(work.video, "audio")["duration"]) == pytest.approx(1, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "layout"), [("5.1(side)", "5.1"), ("mono", "mono")])
def test_surround_becomes_aac_in_a_layout_that_every_player_has(
    channels: str, layout: str, media: Media, work: VideoWork
) -> None:
    """Browsers play an MP4 with AC-3 silently, and AAC has numbers for the usual layouts only."""
    sound = f"-f lavfi -i sine=duration=1,aformat=channel_layouts={channels}"
    video = media.made(f"surround-{channels}.mkv", f"{SECOND} {sound} {X264} -c:a ac3")
    assert stream(video, "audio")["channel_layout"] == channels
    caption(work, video)
    made = stream(work.video, "audio")
    assert (made["codec_name"], made["channel_layout"]) == ("aac", layout)


@pytest.mark.slow
def test_of_channels_that_nobody_can_place_two_are_kept(media: Media, work: VideoWork) -> None:
    """A recorder's sixteen inputs: FFmpeg cannot mix them down, because it does not know where they belong."""
    sound = media.made("inputs.mkv", f"-i {recorded(media, 16).name} {SECOND} {X264} -c:a pcm_s16le")
    caption(work, sound)
    assert stream(work.video, "audio")["channel_layout"] == "stereo"


def test_the_default_sound_track_is_kept(media: Media, work: VideoWork) -> None:
    more = "-map 0 -map 1 -map 2 -ac:a:1 2 -c:a aac -disposition:a:0 0 -disposition:a:1 default -pix_fmt yuv420p"
    caption(work, media.made("two-tracks.mp4", f"{SECOND} {TONE} -f lavfi -i sine=880:duration=1 {more} {X264}"))
    assert kinds(work.video) == ["video", "audio"]
    assert stream(work.video, "audio")["channels"] == 2


def test_a_sound_track_that_cannot_be_decoded_gives_way_to_the_next(media: Media, work: VideoWork) -> None:
    stats = caption(work, with_tracks(media, 0, 0))
    assert stats["warnings"] == ["url_video: sound track 1 cannot be decoded; track 2 was used"]
    assert stream(work.video, "audio")["channels"] == 2


def test_a_video_without_sound_stays_without(media: Media, work: VideoWork) -> None:
    caption(work, media.gray("160x90", 0.2))
    assert kinds(work.video) == ["video"]


def test_cover_art_is_not_mistaken_for_the_video(media: Media, work: VideoWork) -> None:
    cover, plain = media.made("cover.png", "-f lavfi -i color=red:size=64x64 -frames:v 1"), media.video("96x64", 1.0)
    more = "-map 1 -map 0 -c copy -c:v:0 png -disposition:v:0 attached_pic"
    stats = caption(work, media.made("with-cover.mp4", f"-i {plain.name} -i {cover.name} {more}"))
    assert (stats["width"], stats["height"], stats["frames"]) == (96, 64, 25)
    assert kinds(work.video) == ["video", "audio"]


@pytest.mark.slow
def test_letters_are_not_stretched_on_pixels_that_are_not_square(media: Media, work: VideoWork) -> None:
    gray = "-f lavfi -i color=gray:size=360x288:rate=25:duration=0.2,setsar=4/3"
    wide = media.made("sar.mp4", f"{gray} {X264} -pix_fmt yuv420p")

    def shape(video: Path) -> tuple[int, int]:
        caption(work, video, SRT.replace("Texto", "HHHH"), size=0.2)
        changed = np.abs(frames(work.video)[2].astype(int) - 126) > 60
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        return int(np.ptp(columns)), int(np.ptp(rows))

    square, stretched = shape(media.gray("360x288", 0.2)), shape(wide)
    made = stream(work.video, "video")
    assert (made["width"], made["sample_aspect_ratio"]) == (360, "4:3")
    assert stretched[0] * 4 / 3 == pytest.approx(square[0], rel=0.04)
    assert stretched[1] == pytest.approx(square[1], abs=3)


def test_interlaced_frames_are_not_changed(media: Media, work: VideoWork) -> None:
    source = "-f lavfi -i testsrc2=size=96x64:rate=50:duration=1 -vf tinterlace=interleave_top,fieldorder=tff"
    video = media.made("interlaced.mp4", f"{source} {X264} -flags +ildct+ilme -pix_fmt yuv420p -crf 10")
    caption(work, video)
    before, after = frames(video), frames(work.video)
    assert len(after) == len(before)
    assert np.abs(after[10, :30].astype(int) - before[10, :30]).mean() < 6


FOUR_SECONDS = f"-f lavfi -i testsrc2=size=160x96:rate=25:duration=4 {X264} -g 25 -pix_fmt yuv420p -movflags +faststart"


def test_a_damaged_video_that_plays_is_used_and_its_errors_are_counted(media: Media, work: VideoWork) -> None:
    stats = caption(work, damaged(media, "long.mp4", FOUR_SECONDS, 6, after=b"mdat"))
    assert stats["frames"] >= 98
    assert len(stats["warnings"]) == 1 and stats["warnings"][0].rstrip("s").endswith(" decode error")
    assert int(stats["warnings"][0].split()[0]) > 0


def test_frames_that_an_edit_list_hides_are_not_missed(media: Media, work: VideoWork) -> None:
    plain = media.made("gop.mp4", f"-f lavfi -i testsrc2=size=96x64:rate=25:duration=4 {X264} -g 100 -pix_fmt yuv420p")
    clip = media.made("clip.mp4", f"-ss 2.5 -i {plain.name} -c copy")
    assert int(stream(clip, "video")["nb_frames"]) > 50
    caption(work, clip)
    assert frame_count(work.video) == frame_count(clip)


def test_captions_are_drawn_in_every_part_of_a_joined_recording(media: Media, work: VideoWork) -> None:
    stats = caption(work, broadcasts(media, 0, 3000, 0), "1\n00:00:02,200 --> 00:00:02,800\nLater\n")
    assert stats["warnings"] == ["url_video: its timestamps jump; its parts were joined"]
    assert (stats["frames"], stats["duration_s"]) == (75, pytest.approx(3.0, abs=0.04))


def test_progress_never_goes_back(media: Media, work: VideoWork) -> None:
    caption(work, media.video("320x180", 8.0))
    assert work.shares == sorted(work.shares) and work.shares[-1] == 1.0


@pytest.mark.slow
def test_a_video_that_changes_its_size_is_fitted_into_the_first(media: Media, work: VideoWork) -> None:
    """As browsers record a phone that is turned."""
    for name, size in (("wide", "160x96"), ("tall", "96x160")):
        source = f"-f lavfi -i color=white:size={size}:rate=25:duration=0.4"
        media.made(f"{name}.webm", f"{source} -c:v libvpx -deadline realtime -cpu-used 8")
    (media.folder / "turned.txt").write_text("file wide.webm\nfile tall.webm\n")
    caption(work, media.made("turned.webm", "-f concat -i turned.txt -c copy"))
    pixels = frames(work.video)
    assert pixels.shape[:3] == (20, 96, 160)
    for i, picture in enumerate(pixels):
        assert (picture[60:, 60:100] < 100).any(), "the caption"
        shown = picture[:40].mean(axis=0) > 200
        assert shown.sum() == (160 if i < 10 else pytest.approx(58, abs=2))
        assert np.flatnonzero(shown).mean() == pytest.approx(79.5, abs=1), "in the middle"
