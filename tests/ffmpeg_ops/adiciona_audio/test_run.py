from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.engine import encoders
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import (
    Media,
    audio_length_s,
    ffmpeg,
    frame_count,
    frames,
    packets_md5,
    run,
    samples_of,
    stream,
    streams,
)
from wire.errors import AssetHasNoAudio, AssetInvalid

TOLERANCE_S = 0.02


def add(work: Work, video: Path, audio: Path) -> dict[str, Any]:
    return run("adicionaAudio", work, url_video=video, url_audio=audio)


def pitch_hz(path: Path) -> float:
    """The loudest frequency."""
    wave = samples_of(path).astype(float)
    rate = int(stream(path, "audio")["sample_rate"])
    return float(np.argmax(np.abs(np.fft.rfft(wave))) * rate / len(wave))


@pytest.mark.parametrize("seconds", [0.3, 2.0, 4.0])
def test_the_sound_is_as_long_as_the_picture_which_is_copied_bit_by_bit(
    seconds: float, media: Media, work: Work
) -> None:
    video = media.video(seconds=2.0)
    stats = add(work, video, media.tone(seconds))
    assert packets_md5(work.output("video")) == packets_md5(video)
    assert stats["encoder"] == "copy" and stats["frames"] == 50
    assert audio_length_s(work.output("video")) == pytest.approx(2.0, abs=TOLERANCE_S + 0.005)
    assert float(stream(work.output("video"), "audio")["duration"]) == pytest.approx(2.0, abs=TOLERANCE_S)
    assert stats["duration_s"] == pytest.approx(2.0, abs=TOLERANCE_S)


def test_a_short_sound_is_followed_by_silence(media: Media, work: Work) -> None:
    add(work, media.video(seconds=2.0), media.tone(0.5))
    wave = np.abs(samples_of(work.output("video")).astype(int))
    rate = len(wave) / 2.0
    assert wave[int(0.1 * rate) : int(0.4 * rate)].max() > 1000
    assert wave[int(0.7 * rate) :].max() < 50


def test_the_new_sound_replaces_the_old(media: Media, work: Work) -> None:
    add(work, media.video(seconds=1.0), media.tone(2.0, frequency=880))
    assert pitch_hz(work.output("video")) == pytest.approx(880, abs=5)
    assert [s["codec_type"] for s in streams(work.output("video"))] == ["video", "audio"]


def test_a_video_without_sound_gets_one(media: Media, work: Work) -> None:
    video = media.video(audio=False)
    add(work, video, media.tone(2.0))
    assert packets_md5(work.output("video")) == packets_md5(video)
    assert audio_length_s(work.output("video")) == pytest.approx(1.0, abs=TOLERANCE_S + 0.005)


@pytest.mark.parametrize("extension", ["mp3", "wav", "flac", "ogg", "m4a"])
def test_sounds_of_every_usual_form_are_taken(extension: str, media: Media, work: Work) -> None:
    add(work, media.video(), media.tone(2.0, extension))
    assert stream(work.output("video"), "audio")["codec_name"] == "aac"
    assert pitch_hz(work.output("video")) == pytest.approx(880, abs=5)


def test_the_sound_of_another_video_is_taken(media: Media, work: Work) -> None:
    add(work, media.video(audio=False), media.video(seconds=2.0))
    assert pitch_hz(work.output("video")) == pytest.approx(440, abs=5)


def test_cover_art_of_a_song_does_not_become_the_picture(media: Media, work: Work) -> None:
    video = media.video(audio=False)
    add(work, video, media.song_with_cover())
    assert packets_md5(work.output("video")) == packets_md5(video)


def test_the_samples_go_together(samples: Path, work: Work) -> None:
    stats = add(work, samples / "video.mp4", samples / "narration.mp3")
    assert packets_md5(work.output("video")) == packets_md5(samples / "video.mp4")
    assert audio_length_s(work.output("video")) == pytest.approx(5.28, abs=TOLERANCE_S + 0.005)
    assert (stats["frames"], stats["duration_s"]) == (132, 5.28)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_picture_that_mp4_cannot_hold_is_encoded_anew(codec: str, media: Media, work: Work) -> None:
    video = media.webm(codec)
    stats = add(work, video, media.tone(0.4))
    assert stats["encoder"] == encoders.best().name
    assert stream(work.output("video"), "video")["codec_name"] == "h264"
    assert frame_count(work.output("video")) == 25
    assert audio_length_s(work.output("video")) == pytest.approx(1.0, abs=0.05)


def test_an_odd_picture_that_is_encoded_anew_gets_even_sides(media: Media, work: Work) -> None:
    odd = media.made(
        "odd.webm",
        "-f lavfi -i testsrc=size=95x63:rate=25:duration=0.4 -c:v libvpx-vp9 -cpu-used 8 -deadline realtime -pix_fmt yuv444p",
    )
    stats = add(work, odd, media.tone(1.0))
    assert (stats["width"] % 2, stats["height"] % 2, stats["frames"]) == (0, 0, 10)


@pytest.mark.parametrize("container", ["mkv", "ts", "mp4"])
def test_the_length_is_the_picture_s_where_its_own_sound_is_longer(container: str, media: Media, work: Work) -> None:
    picture, sound = media.video(audio=False), media.tone(3.0)
    video = media.made(
        f"long-sound.{container}", f"-i {picture.name} -i {sound.name} -map 0:v -map 1:a -c:v copy -c:a aac"
    )
    add(work, video, media.tone(4.0))
    assert audio_length_s(work.output("video")) == pytest.approx(1.0, abs=0.05)
    assert frame_count(work.output("video")) == 25


def test_a_video_of_unknown_length_is_measured(media: Media, work: Work) -> None:
    live = media.folder / "live-audio.webm"
    live.write_bytes(ffmpeg("-i", media.webm(), "-c", "copy", "-f", "webm", "-live", "1", "-"))
    add(work, live, media.tone(3.0))
    assert audio_length_s(work.output("video")) == pytest.approx(1.0, abs=0.05)


def test_a_rotated_video_stays_as_it_is_shown(media: Media, work: Work) -> None:
    video = media.rotated("160x90")
    stats = add(work, video, media.tone(1.0))
    assert packets_md5(work.output("video")) == packets_md5(video)
    assert (stats["width"], stats["height"]) == (90, 160)
    assert frames(work.output("video")).shape == frames(video).shape


def test_the_words_of_the_sources_are_not_in_the_output(media: Media, work: Work) -> None:
    song = media.made("secret.mp3", f"-i {media.tone(1.0).name} -metadata title=secret -metadata artist=secret")
    add(work, media.video(), song)
    assert b"secret" not in work.output("video").read_bytes()


def test_progress_is_told(media: Media, work: Work) -> None:
    seen: list[float] = []
    add(Work(work.directory, progress=seen.append), media.video(), media.tone(1.0))
    assert seen[-1] == 1.0 and seen == sorted(seen)


def test_a_sound_without_sound_is_refused(media: Media, work: Work) -> None:
    with pytest.raises(AssetHasNoAudio, match="url_audio"):
        add(work, media.video(), media.video(audio=False))


@pytest.mark.parametrize("content", [b"<html>", b"", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_sound_is_refused_by_name(content: bytes, media: Media, work: Work) -> None:
    path = work.directory / "asset-url_audio"
    path.write_bytes(content)
    with pytest.raises(AssetInvalid, match="url_audio"):
        add(work, media.video(), path)


def test_a_sound_is_no_video(media: Media, work: Work) -> None:
    with pytest.raises(AssetInvalid, match=r"url_video.*audio only"):
        add(work, media.tone(), media.tone())
