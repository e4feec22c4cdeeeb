"""Damaged sources: what plays is used and its errors are counted; too little of it is a failure."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.engine.mixing import filters
from tests.ffmpeg_ops.adiciona_audio.listen import add, length_s, level_db, tone, wave
from tests.ffmpeg_ops.media import Media, VideoWork, cut_off, damaged, flipped, frame_count, packets_md5
from wire.errors import AssetInvalid, EncodeFailed

PICTURE = "-f lavfi -i testsrc2=size=160x96:rate=25:duration=4"
VP9 = f"{PICTURE} -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 10"
MPEG2 = f"{PICTURE} -c:v mpeg2video -g 10"
X264 = f"{PICTURE} -c:v libx264 -preset ultrafast -g 25 -pix_fmt yuv420p -movflags +faststart"
slow = partial(pytest.param, marks=pytest.mark.slow)
SOUND = "-f lavfi -i anoisesrc=duration=6:amplitude=0.3:seed=5"


def errors(stats: dict[str, Any]) -> int:
    """How many decode errors the warnings count."""
    assert len(stats["warnings"]) == 1 and stats["warnings"][0].rstrip("s").endswith(" decode error")
    return int(stats["warnings"][0].split()[0])


def test_a_damaged_video_that_is_encoded_is_used(media: Media, work: VideoWork) -> None:
    video = damaged(media, "mpeg2.avi", MPEG2, 6, keep=6000)
    stats = add(work, video, media.tone(2.0))
    assert errors(stats) > 0
    assert stats["frames"] == frame_count(work.video) >= 98
    assert length_s(work.video) == pytest.approx(4, abs=0.06)


def test_damaged_sound_is_used_and_its_errors_are_counted(media: Media, work: VideoWork) -> None:
    sound = damaged(media, "noise.m4a", f"{SOUND} -c:a aac -movflags +faststart", 100, after=b"mdat")
    # with this param the sound is decoded; a copied one would not be checked
    stats = add(work, media.video(seconds=4.0), sound, volume=0.5)
    assert errors(stats) > 0
    assert length_s(work.video) == pytest.approx(4, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "codec", "flips", "seed"),
    [
        ("b.mp3", "-ac 2 -b:a 128k", 100, 0),  # one of them a header with another sample rate
        ("b.mp3", "-ac 2 -b:a 128k", 400, 1),
        ("b.ac3", "-ac 2", 100, 0),
        ("b.ac3", "-ac 2", 400, 1),
        ("b.flac", "-ac 2", 100, 0),
        ("b.ogg", "-ac 2 -c:a libopus", 2, 1),
        ("b.aac", "-ac 2", 100, 0),
    ],
)
@pytest.mark.parametrize("params", [{}, slow({"loop": True, "mode": "mix"})], ids=["plain", "mixed"])
def test_damaged_sound_of_any_kind_gets_the_exact_length(
    name: str, codec: str, flips: int, seed: int, params: dict[str, Any], media: Media, work: VideoWork
) -> None:
    sound = flipped(media, name, f"{SOUND} {codec}", flips, seed)
    stats = add(work, media.video(seconds=4.0), sound, **params)
    assert errors(stats) > 0
    assert length_s(work.video) == pytest.approx(4, abs=0.02)
    assert (stats["frames"], stats["duration_s"]) == (100, 4.0)


FORMS = {
    "mp3": ("-ar 44100 -ac 2", "-ar 22050 -ac 1"),
    "ac3": ("-ac 2", "-ar 44100 -ac 6"),
    "aac": ("-ar 44100 -ac 2", "-ar 22050 -ac 1"),
    "ogg": ("-c:a libopus -ac 2", "-c:a libopus -ac 1"),
    "ts": ("-c:a ac3 -ac 2", "-c:a ac3 -ac 6"),
}


def joined(media: Media, extension: str) -> Path:
    """Two sounds of 1.5 s, of 500 and of 1300 Hz, one after the other in one file: its rate or channels change."""
    parts = []
    for hz, form in zip((500, 1300), FORMS[extension], strict=True):
        waves = "|".join([f"0.1*sin(2*PI*{hz}*t)"] * 2)
        parts.append(tone(media, f"part-{hz}.{extension}", waves, 1.5, options=form).read_bytes())
    path = media.folder / f"joined.{extension}"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("extension", FORMS)
@pytest.mark.parametrize(
    ("params", "expected_s"),
    [({}, 4.0), slow({"length": "audio"}, 3.0), slow({"mode": "mix", "original_volume": 0, "length": "shortest"}, 3.0)],
    ids=["video", "audio", "mixed"],
)
def test_sound_that_changes_midway_is_heard_in_full(
    extension: str, params: dict[str, Any], expected_s: float, media: Media, work: VideoWork
) -> None:
    add(work, media.video(seconds=4.0), joined(media, extension), **params)
    tolerance_s = 0.02 if expected_s == 4 else 0.13  # the second part has an encoder delay of its own
    assert length_s(work.video) == pytest.approx(expected_s, abs=tolerance_s)
    heard = wave(work.video)
    assert level_db(heard, 500, 0.2, 1.3) == pytest.approx(-20, abs=1)
    assert level_db(heard, 1300, 1.8, 2.8) == pytest.approx(-20, abs=4)
    assert level_db(heard, 500, 1.8, 2.8) < -50 > level_db(heard, 1300, 0.2, 1.3)


def test_a_video_s_own_sound_that_changes_midway_stays_in_sync(media: Media, work: VideoWork) -> None:
    """A broadcast goes from stereo to 5.1; its sound begins before its picture."""
    sound = joined(media, "ts")
    picture = media.video(seconds=2.5, audio=False)
    inputs = f"-itsoffset 0.5 -i {picture.name} -i {sound.name}"
    video = media.made("changing.ts", f"{inputs} -map 0:v -map 1:a -c copy")
    stats = add(work, video, media.tone(1.0, frequency=3000), mode="mix", volume=0)
    assert stats["duration_s"] == pytest.approx(2.5, abs=0.04)
    assert length_s(work.video) == pytest.approx(stats["duration_s"], abs=0.02)
    heard = wave(work.video)
    assert level_db(heard, 500, 0.05, 0.9) == pytest.approx(-20, abs=1)
    assert level_db(heard, 1300, 1.15, 2.4) == pytest.approx(-20, abs=4)


def test_sound_of_a_wrong_length_is_a_failure(media: Media, work: VideoWork, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if FFmpeg had miscounted: here it is made to produce too many samples."""
    right = filters.samples
    monkeypatch.setattr(filters, "samples", lambda seconds: right(seconds) + 2000)
    with pytest.raises(EncodeFailed, match="wrong length"):
        add(work, media.video(seconds=2.0), media.tone(1.0))


def test_damaged_packets_are_copied_unchanged(media: Media, work: VideoWork) -> None:
    video = damaged(media, "copied.mp4", X264, 6, after=b"mdat")
    stats = add(work, video, media.tone(2.0))
    assert (stats["encoder"], stats["frames"]) == ("copy", 100)
    assert packets_md5(work.video) == packets_md5(video)


def test_a_video_of_which_nothing_can_be_decoded_is_refused(media: Media, work: VideoWork) -> None:
    """All packets are there, but the second half of the only key frame claims to be longer than the file."""
    x264 = "-c:v libx264 -preset ultrafast -g 100 -x264-params scenecut=0:slices=2 -pix_fmt yuv420p"
    content = bytearray(media.made("seen.mp4", f"{PICTURE} {x264} -movflags +faststart").read_bytes())
    at = content.index(b"mdat") + 4
    for _ in range(2):  # the encoder's own message, and the first half
        at += 4 + int.from_bytes(content[at : at + 4])
    content[at : at + 4] = b"\x7f" * 4
    video = media.folder / "blind.mp4"
    video.write_bytes(content)
    with pytest.raises(AssetInvalid, match="only 0 of about 100"):
        add(work, video, media.tone(2.0))


def test_a_broadcast_that_begins_between_key_frames_is_copied(media: Media, work: VideoWork) -> None:
    whole = media.made("whole.ts", f"{X264} -bf 2".replace("-g 25", "-g 50")).read_bytes()
    video = media.folder / "joined-late.ts"
    video.write_bytes(whole[188 * (len(whole) // 188 // 4) :])
    stats = add(work, video, media.tone(2.0))
    assert stats["encoder"] == "copy" and errors(stats) > 0


@pytest.mark.slow
def test_sources_without_damage_have_no_warnings(media: Media, work: VideoWork) -> None:
    whole = media.made("whole-plain.webm", VP9)
    assert "warnings" not in add(work, whole, media.tone(2.0, "mp3"))
    assert "warnings" not in add(work, media.video(), media.song_with_cover())


@pytest.mark.parametrize("params", [{}, {"length": "audio"}, {"length": "shortest"}], ids=["whole", "longer", "cut"])
@pytest.mark.parametrize("codec", ["libx264 -preset ultrafast", "mjpeg -pix_fmt yuvj420p"], ids=["copied", "encoded"])
def test_a_video_that_is_cut_off_is_refused(codec: str, params: dict[str, Any], media: Media, work: VideoWork) -> None:
    name = f"{codec.split()[0]}.mov"
    video = cut_off(media, name, f"{PICTURE} -c:v {codec} -g 10 -movflags +faststart", 0.4)
    seconds = {"audio": 5.0, "shortest": 3.0}.get(params.get("length", ""), 1.0)
    with pytest.raises(AssetInvalid):
        add(work, video, media.tone(seconds), **params)


def test_damage_after_the_end_of_the_output_is_ignored(media: Media, work: VideoWork) -> None:
    video = cut_off(media, "early.mov", f"{PICTURE} -c:v mjpeg -pix_fmt yuvj420p -movflags +faststart", 0.6)
    stats = add(work, video, media.tone(1.0), length="shortest")
    assert stats["frames"] == 25
