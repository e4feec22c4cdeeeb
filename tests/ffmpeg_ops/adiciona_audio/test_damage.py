"""Damaged sources: what plays is used and its errors are told; too little of it is a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.adiciona_audio.listen import add, length_s
from tests.ffmpeg_ops.media import Media, damaged, frame_count, packets_md5
from wire.errors import EncodeFailed

PICTURE = "-f lavfi -i testsrc2=size=160x96:rate=25:duration=4"
VP9 = f"{PICTURE} -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 10"
MPEG2 = f"{PICTURE} -c:v mpeg2video -g 10"
X264 = f"{PICTURE} -c:v libx264 -preset ultrafast -g 25 -pix_fmt yuv420p -movflags +faststart"
SOUND = "-f lavfi -i anoisesrc=duration=6:amplitude=0.3:seed=5"


def errors(stats: dict[str, Any]) -> int:
    """How many were told of."""
    assert len(stats["warnings"]) == 1 and stats["warnings"][0].rstrip("s").endswith(" decode error")
    return int(stats["warnings"][0].split()[0])


def test_a_damaged_picture_that_is_encoded_anew_is_used(media: Media, work: Work) -> None:
    video = damaged(media, "mpeg2.avi", MPEG2, 6, keep=6000)
    stats = add(work, video, media.tone(2.0))
    assert errors(stats) > 0
    assert stats["frames"] == frame_count(work.output) >= 98
    assert length_s(work.output) == pytest.approx(4, abs=0.06)


def test_damaged_sound_is_used_and_its_errors_are_counted(media: Media, work: Work) -> None:
    sound = damaged(media, "noise.m4a", f"{SOUND} -c:a aac -movflags +faststart", 100, after=b"mdat")
    # a param that has the sound decoded: what is copied is looked into by nobody
    stats = add(work, media.video(seconds=4.0), sound, volume=0.5)
    assert errors(stats) > 0
    assert length_s(work.output) == pytest.approx(4, abs=0.02)


def test_damaged_packets_of_a_picture_are_copied_as_they_are(media: Media, work: Work) -> None:
    video = damaged(media, "copied.mp4", X264, 6, after=b"mdat")
    stats = add(work, video, media.tone(2.0))
    assert (stats["encoder"], stats["frames"]) == ("copy", 100)
    assert packets_md5(work.output) == packets_md5(video)


def test_sources_without_damage_have_no_warnings(media: Media, work: Work) -> None:
    whole = media.made("whole-plain.webm", VP9)
    assert "warnings" not in add(work, whole, media.tone(2.0, "mp3"))
    assert "warnings" not in add(work, media.video(), media.song_with_cover())


def cut_off(media: Media, name: str, arguments: str, share: float) -> Path:
    whole = media.made(f"whole-{name}", arguments).read_bytes()
    path = media.folder / f"cut-{name}"
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


@pytest.mark.parametrize("params", [{}, {"length": "audio"}, {"length": "shortest"}], ids=["whole", "longer", "cut"])
@pytest.mark.parametrize("codec", ["libx264 -preset ultrafast", "mjpeg -pix_fmt yuvj420p"], ids=["copied", "encoded"])
def test_a_picture_that_is_cut_off_is_a_failure(codec: str, params: dict[str, Any], media: Media, work: Work) -> None:
    name = f"{codec.split()[0]}.mov"
    video = cut_off(media, name, f"{PICTURE} -c:v {codec} -g 10 -movflags +faststart", 0.4)
    seconds = {"audio": 5.0, "shortest": 3.0}.get(params.get("length", ""), 1.0)
    with pytest.raises(EncodeFailed):
        add(work, video, media.tone(seconds), **params)


def test_a_cut_before_the_damage_does_not_meet_it(media: Media, work: Work) -> None:
    video = cut_off(media, "early.mov", f"{PICTURE} -c:v mjpeg -pix_fmt yuvj420p -movflags +faststart", 0.6)
    stats = add(work, video, media.tone(1.0), length="shortest")
    assert stats["frames"] == 25
