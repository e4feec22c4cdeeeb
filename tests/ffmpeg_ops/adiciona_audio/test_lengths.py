"""Lengths, measured on decoded samples and frames."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.ffmpeg_ops.adiciona_audio.listen import add, length_s, level_db, tone, wave, with_sound
from tests.ffmpeg_ops.media import X264, Media, VideoWork, broadcasts, frame_times, packets_md5, stream
from wire.errors import InvalidParams

TOLERANCE_S = 0.02
VIDEO_S = 2.0
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("extension", "seconds", "params", "expected_s"),
    [
        ("wav", 0.7, {}, 2.0),
        slow("wav", 2.0, {}, 2.0),
        ("wav", 3.01, {"start": 0.333}, 2.0),
        slow("mp3", 0.5, {"loop": True}, 2.0),
        ("mp3", 0.5, {"loop": True, "start": 1.2}, 2.0),
        ("mp3", 1.217, {"length": "audio"}, 1.217),
        slow("mp3", 1.217, {"length": "shortest"}, 1.217),
        ("mp3", 3.0, {"length": "shortest"}, 2.0),
        ("wav", 1.0, {"length": "shortest", "start": 0.5}, 1.5),
        slow("wav", 2.6, {"length": "audio"}, 2.6),
        ("wav", 1.5, {"length": "audio", "start": 1.5}, 3.0),
        slow("wav", 1.0, {"length": "audio", "mode": "mix"}, 1.0),
        ("wav", 3.0, {"mode": "mix", "fade_out": 1}, 2.0),
        ("m4a", 3.0, {}, 2.0),
        slow("m4a", 2.0, {}, 2.0),
        slow("m4a", 1.99, {}, 2.0),
        ("m4a", 1.1, {}, 2.0),
        slow("m4a", 1.1, {"length": "audio"}, 1.1),
        slow("aac", 3.0, {}, 2.0),
        ("aac", 1.5, {}, 2.0),
    ],
)
def test_the_result_is_as_long_as_asked(
    extension: str, seconds: float, params: dict[str, Any], expected_s: float, media: Media, work: VideoWork
) -> None:
    video = media.video(seconds=VIDEO_S)
    stats = add(work, video, media.tone(seconds, extension), **params)
    assert length_s(work.video) == pytest.approx(expected_s, abs=TOLERANCE_S)
    assert float(stream(work.video, "video")["duration"]) == pytest.approx(expected_s, abs=0.04)
    assert stats["duration_s"] == pytest.approx(expected_s, abs=0.04)
    assert (stats["encoder"] == "copy") == (expected_s <= VIDEO_S)


@pytest.mark.parametrize("frames", [47, 49])
def test_whole_packets_do_not_exceed_the_tolerance(frames: int, media: Media, work: VideoWork) -> None:
    """Although a packet of AAC is longer than the tolerance."""
    add(work, media.video(seconds=frames / 25), media.tone(3.0), volume=0.5)
    assert length_s(work.video) == pytest.approx(frames / 25, abs=TOLERANCE_S)


def test_a_wrong_length_in_the_header_is_ignored(media: Media, work: VideoWork) -> None:
    """ADTS states no length, and a VBR MP3 without its Xing header a wrong one."""
    parts = "-f lavfi -i anullsrc=d=1:r=48000 -f lavfi -i sine=d=1:r=48000 -filter_complex [0][1]concat=v=0:a=1"
    add(work, media.video(seconds=3.0), media.made("vbr.mp3", f"{parts} -q:a 0 -write_xing 0"), length="shortest")
    assert length_s(work.video) == pytest.approx(2.0, abs=0.05)  # without its header an MP3 keeps its padding


@pytest.mark.slow
def test_five_minutes_do_not_drift(media: Media, work: VideoWork) -> None:
    video = media.made("long.mp4", f"-f lavfi -i color=size=16x16:rate=1:d=300 {X264}")
    clicks = "-f lavfi -i aevalsrc=lt(mod(t\\,10)\\,0.01)*0.8*sin(3000*t):s=44100:d=10 -b:a 64k"
    add(work, video, media.made("clicks.mp3", clicks), loop=True)
    heard = wave(work.video)
    assert len(heard) / 48000 == pytest.approx(300, abs=TOLERANCE_S)
    first, last = abs(heard[:48000]).argmax(), abs(heard[290 * 48000 : 291 * 48000]).argmax()
    assert abs(int(first) - int(last)) / 48000 < 0.005


@pytest.mark.parametrize("mode", [slow("replace"), "mix"])
def test_all_parts_of_a_joined_recording_count(mode: str, media: Media, work: VideoWork) -> None:
    stats = add(work, broadcasts(media, 0, 3000, 0), broadcasts(media, 0, 0), mode=mode)
    assert (stats["frames"], stats["duration_s"]) == (75, pytest.approx(3.0, abs=0.04))
    assert length_s(work.video) == pytest.approx(3.0, abs=TOLERANCE_S)
    assert level_db(wave(work.video), 440, 1.2, 1.9) > -30, "the second part of the new sound"
    assert len(stats["warnings"]) == 2


@pytest.mark.parametrize(("length", "expected_s"), [("video", 2.0), slow("shortest", 1.0), slow("audio", 3.0)])
@pytest.mark.parametrize("codec", ["libx264", slow("libx265 -x265-params log-level=none")])
def test_a_stream_without_timestamps_has_even_frames(
    codec: str, length: str, expected_s: float, media: Media, work: VideoWork
) -> None:
    """As security cameras and hardware encoders write it."""
    extension = "h264" if codec == "libx264" else "hevc"
    source = f"-f lavfi -i testsrc2=size=96x64:rate=25:d=2 -c:v {codec} -pix_fmt yuv420p"
    seconds = 1.0 if length == "shortest" else 3.0
    stats = add(work, media.made(f"raw.{extension}", source), media.tone(seconds), length=length)
    assert (stats["frames"], stats["duration_s"]) == (25 * expected_s, pytest.approx(expected_s, abs=0.04))
    assert length_s(work.video) == pytest.approx(expected_s, abs=TOLERANCE_S)
    assert frame_times(work.video)[:3] == pytest.approx([0, 0.04, 0.08], abs=0.001)


def test_a_start_behind_the_end_is_refused(media: Media, work: VideoWork) -> None:
    with pytest.raises(InvalidParams, match=r"start.*2\.00"):
        add(work, media.video(seconds=VIDEO_S), media.tone(1.0), start=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["ts", "mkv", "mov"])
def test_a_video_that_begins_late_begins_at_once(container: str, media: Media, work: VideoWork) -> None:
    """Its own sound begins earlier: what lies before the first picture is cut, and both stay together."""
    video = with_sound(media, "halves", "'0.3*sin(2*PI*500*t)*gt(t,1)'", 2.0)
    late = media.made(f"late.{container}", f"-itsoffset 0.5 -i {video.name} -i {video.name} -map 0:v -map 1:a -c copy")
    add(work, late, media.tone(0.1), mode="mix", volume=0)
    assert length_s(work.video) == pytest.approx(2.0, abs=TOLERANCE_S)
    assert float(stream(work.video, "video")["start_time"]) == pytest.approx(0, abs=0.001)
    heard = wave(work.video)
    assert level_db(heard, 500, 0.2, 0.45) < -60 < -15 < level_db(heard, 500, 0.55, 0.9)


def test_a_copied_sound_is_copied_bit_by_bit(media: Media, work: VideoWork) -> None:
    video, sound = media.video(seconds=2.0, audio=False), tone(media, "whole.m4a", "0.1*sin(2000*t)", 2.0)
    add(work, video, sound)
    assert packets_md5(work.video, "a") == packets_md5(sound, "a")
    assert packets_md5(work.video) == packets_md5(video)


@pytest.mark.parametrize(
    "params",
    [{"volume": 0.9}, {"fade_in": 0.1}, {"fade_out": 0.1}, {"start": 0.1}, {"loop": True}, {"loudness": -20}, {}],
)
def test_a_sound_that_is_changed_or_not_stereo_is_encoded(
    params: dict[str, Any], media: Media, work: VideoWork
) -> None:
    surround = "-f lavfi -i anullsrc=channel_layout=5.1:d=1 -c:a aac"
    sound = media.tone(1.0, "m4a") if params else media.made("surround.m4a", surround)
    add(work, media.video(seconds=1.0), sound, **params)
    assert int(stream(work.video, "audio")["channels"]) == 2


def test_a_video_in_fragments_is_taken(media: Media, work: VideoWork) -> None:
    plain = media.video(seconds=2.0)
    video = media.made("fragments.mp4", f"-i {plain.name} -c copy -movflags frag_keyframe+empty_moov")
    stats = add(work, video, media.tone(1.0))
    assert (stats["frames"], stats["duration_s"]) == (50, pytest.approx(2.0, abs=0.04))
