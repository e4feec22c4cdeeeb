from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffmpeg_ops.engine import probe
from tests.ffmpeg_ops.adiciona_audio.listen import add, length_s, level_db, wave
from tests.ffmpeg_ops.media import (
    Media,
    VideoWork,
    frame_count,
    frames,
    packets_md5,
    recorded,
    run,
    samples_of,
    stream,
    streams,
    with_tracks,
)
from wire.errors import AssetHasNoAudio, AssetInvalid

TOLERANCE_S = 0.02


def pitch_hz(path: Path) -> float:
    """The loudest frequency."""
    wave = samples_of(path).astype(float)
    rate = int(stream(path, "audio")["sample_rate"])
    return float(np.argmax(np.abs(np.fft.rfft(wave))) * rate / len(wave))


@pytest.mark.parametrize("seconds", [0.3, 2.0, 4.0])
def test_the_video_is_copied_bit_by_bit_and_the_sound_is_as_long(seconds: float, media: Media, work: VideoWork) -> None:
    video = media.video(seconds=2.0)
    stats = add(work, video, media.tone(seconds))
    assert work.shares[-1] == 1.0 and work.shares == sorted(work.shares)
    assert packets_md5(work.video) == packets_md5(video)
    assert [s["codec_type"] for s in streams(work.video)] == ["video", "audio"]
    assert stats["encoder"] == "copy" and stats["frames"] == 50
    assert length_s(work.video) == pytest.approx(2.0, abs=TOLERANCE_S)
    assert float(stream(work.video, "audio")["duration"]) == pytest.approx(2.0, abs=TOLERANCE_S)
    assert stats["duration_s"] == pytest.approx(2.0, abs=TOLERANCE_S)
    if seconds < 2:
        wave = np.abs(samples_of(work.video).astype(int))
        assert wave[2000:10000].max() > 1000 and wave[len(wave) // 4 :].max() < 50, "silence follows"


@pytest.mark.slow
def test_a_sound_that_cannot_be_decoded_gives_way_to_the_next(media: Media, work: VideoWork) -> None:
    """Tracks count where they are heard: the video's own are dropped by `replace`."""
    phone, said = with_tracks(media, 0, 0), "sound track 1 cannot be decoded; track 2 was used"
    assert add(work, media.video(), phone)["warnings"] == [f"url_audio: {said}"]
    assert add(work, phone, media.tone(1.0), mode="mix", volume=0)["warnings"] == [f"url_video: {said}"]
    assert np.abs(samples_of(work.video).astype(int)).max() > 1000
    assert "warnings" not in add(work, phone, media.tone(1.0))


@pytest.mark.parametrize("extension", ["mp3", "wav", "flac", "ogg", "m4a"])
def test_the_new_sound_replaces_the_old(extension: str, media: Media, work: VideoWork) -> None:
    song = media.made(f"tagged.{extension}", f"-i {media.tone(2.0, extension).name} -metadata title=secret")
    add(work, media.video(), song)
    assert stream(work.video, "audio")["codec_name"] == "aac"
    assert pitch_hz(work.video) == pytest.approx(880, abs=5)
    assert b"secret" not in work.video.read_bytes()


@pytest.mark.parametrize(("sound", "hz"), [("video", 440), ("song with cover", 880)])
def test_a_video_without_sound_gets_that_of_any_file(sound: str, hz: float, media: Media, work: VideoWork) -> None:
    video = media.video(audio=False)
    add(work, video, media.video(seconds=2.0) if sound == "video" else media.song_with_cover())
    assert packets_md5(work.video) == packets_md5(video)
    assert length_s(work.video) == pytest.approx(1.0, abs=TOLERANCE_S)
    assert pitch_hz(work.video) == pytest.approx(hz, abs=5)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_codec_that_mp4_cannot_hold_is_encoded(codec: str, media: Media, work: VideoWork) -> None:
    stats = add(work, media.webm(codec), media.tone(0.4))
    assert stats["encoder"] == probe.best().name
    assert stream(work.video, "video")["codec_name"] == "h264"
    assert frame_count(work.video) == 25
    assert length_s(work.video) == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["mkv", "ts", "mp4", "live"])
def test_the_length_is_the_video_stream_s(container: str, media: Media, work: VideoWork) -> None:
    """Whether the file's own sound is longer, or its header states no length."""
    picture, sound = media.video(audio=False), media.tone(3.0)
    longer = f"-i {picture.name} -i {sound.name} -map 0:v -map 1:a -c:v copy -c:a aac"
    video = media.live() if container == "live" else media.made(f"long-sound.{container}", longer)
    add(work, video, media.tone(4.0))
    assert length_s(work.video) == pytest.approx(1.0, abs=0.05)
    assert frame_count(work.video) == 25


@pytest.mark.slow
def test_a_rotated_video_stays_rotated(media: Media, work: VideoWork) -> None:
    video = media.rotated("160x90")
    stats = add(work, video, media.tone(1.0))
    assert packets_md5(work.video) == packets_md5(video)
    assert (stats["width"], stats["height"]) == (90, 160)
    assert frames(work.video).shape == frames(video).shape


def test_wrong_assets_are_refused_by_name(media: Media, work: VideoWork) -> None:
    with pytest.raises(AssetHasNoAudio, match="url_audio"):
        add(work, media.video(), media.video(audio=False))
    with pytest.raises(AssetInvalid, match=r"url_video.*audio only"):
        add(work, media.tone(), media.tone())
    path = work.directory / "asset-url_audio"
    for content in (b"<html>", b"", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(AssetInvalid, match="url_audio"):
            run("adicionaAudio", work, url_video=media.video(), url_audio=path)


@pytest.mark.parametrize("channels", [9, 64])
def test_of_channels_that_nobody_can_place_the_first_two_are_heard(
    channels: int, media: Media, work: VideoWork
) -> None:
    add(work, media.video(), recorded(media, channels))
    heard = wave(work.video)
    assert level_db(heard, 500, 0.2, 0.8) == pytest.approx(-14, abs=1)
    assert level_db(heard, 1300, 0.2, 0.8) < -40


def test_sound_that_no_player_takes_is_refused(media: Media, work: VideoWork) -> None:
    with pytest.raises(AssetInvalid, match="url_audio: a sound of 65 channels is not supported"):
        add(work, media.video(), recorded(media, 65))
    broken = np.full(48000, np.nan, "<f4").tobytes()
    raw = media.folder / "broken.raw"
    raw.write_bytes(broken)
    with pytest.raises(AssetInvalid, match="no numbers"):
        add(work, media.video(), media.made("broken.wav", f"-f f32le -ar 48000 -i {raw.name} -c:a pcm_f32le"))
