"""The header of an MP4, held against ffprobe."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffmpeg_ops.engine import mp4, output
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import X264, Media, VideoWork, described_twice, stream, streams
from wire.errors import AssetInvalid, EncodeFailed


@pytest.mark.parametrize("place", ["", "-movflags +faststart"], ids=["behind", "in-front"])
def test_tracks_are_as_ffprobe_counts_them(place: str, media: Media) -> None:
    picture = f"-f lavfi -i testsrc2=size=64x48:rate=30000/1001:duration=1.5 {X264}"
    path = media.made(f"tracks{place}.mp4", f"-f lavfi -i sine=d=1.7:r=48000 {picture} -c:a aac {place}")
    found = mp4.tracks(path)
    counted = {s["codec_type"][:4]: int(s["nb_read_packets"]) for s in streams(path, "-count_packets")}
    assert (found["vide"].packets, found["soun"].packets) == (counted["vide"], counted["audi"])
    assert found["vide"].packets_s == pytest.approx(float(stream(path, "video")["duration"]), abs=0.001)
    assert found["soun"].packets_s == pytest.approx(1.7 + 1024 / 48000, abs=0.001)
    assert found["soun"].skipped_s == pytest.approx(1024 / 48000)


@pytest.mark.parametrize("content", [b"", b"\0", b"\0\0\0\x08moov\0\0", b"\0\0\0\x10ftypisom\0\0\0\0", bytes(64)])
def test_what_is_no_mp4_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "output-video.mp4"
    path.write_bytes(content)
    with pytest.raises((EncodeFailed, AssetInvalid)):
        output.tracks(Work(tmp_path))


def test_a_second_description_is_found(media: Media, tmp_path: Path) -> None:
    assert mp4.changes_description(described_twice(media))
    for path in (media.video(), media.webm(), media.made("last.mp4", f"-i {media.video().name} -c copy")):
        assert not mp4.changes_description(path)
    noise = tmp_path / "noise.mp4"
    for content in (b"", b"\0\0\0\x08moov\0\0", b"\0\0\0\1moov" + bytes(20), b"\0\0\0\2" * 999, bytes(999)):
        noise.write_bytes(content)
        assert not mp4.changes_description(noise)


def test_an_output_with_other_than_the_promised_frames_is_a_failure(media: Media, work: VideoWork) -> None:
    work.video.write_bytes(media.video(seconds=1.0).read_bytes())
    output.require_written(25, work)
    with pytest.raises(EncodeFailed, match="25 frames were written, not 24"):
        output.require_written(24, work)
