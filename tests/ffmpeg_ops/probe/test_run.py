"""What `probe` says about files whose properties are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.operation import OPERATIONS, Work
from tests.ffmpeg_ops.media import X264, Media, broadcasts, hdr
from wire.errors import AssetInvalid

PICTURE = "-f lavfi -i testsrc2=size=96x64:rate=30000/1001:duration=1"


def probe(work: Work, path: Path, **params: Any) -> dict[str, Any]:
    operation = OPERATIONS["probe"]
    loaded = operation.params().load({"url_media": "https://example.com/x", **params})
    assert operation.declared(loaded) == {}
    return operation.run(work, loaded, {"url_media": path})


def result(work: Work, path: Path, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = probe(work, path, **params)["result"]
    return found


@pytest.mark.parametrize("first", [True, False])
def test_a_video_with_sound(first: bool, media: Media, work: Work) -> None:
    sound = "-f lavfi -i sine=d=1.5:r=44100 -c:a aac -ac 2 -metadata:s:a language=por"
    path = media.made(f"both-{first}.mp4", f"{PICTURE} {sound} {X264} {'-movflags +faststart' if first else ''}")
    found = result(work, path)
    assert found["container"] == "mov,mp4,m4a,3gp,3g2,mj2" and found["size_bytes"] == path.stat().st_size
    assert found["duration_s"] == pytest.approx(1.5, abs=0.03) and found["faststart"] is first
    video, audio = found["streams"]
    assert video == {
        "type": "video", "codec": "h264", "duration_s": pytest.approx(1.0, abs=0.01), "default": True, "width": 96,
        "height": 64, "rotation": 0, "frame_rate": pytest.approx(29.97), "frames": 30, "hdr": False, "cover": False,
    }  # fmt: skip
    assert audio == {
        "type": "audio", "codec": "aac", "language": "por", "duration_s": pytest.approx(1.5, abs=0.03), "default": True,
        "channels": 2, "layout": "stereo", "sample_rate": 44100,
    }  # fmt: skip


@pytest.mark.slow
def test_the_picture_is_described_as_players_show_it(media: Media, work: Work) -> None:
    path = media.rotated("160x90")
    [video] = [s for s in result(work, path)["streams"] if s["type"] == "video"]
    assert (video["width"], video["height"]) == (90, 160) and video["rotation"] in {90, 270}
    wide = media.made("wide.mp4", f"-f lavfi -i testsrc2=size=64x64:rate=25:d=0.2,setsar=2 {X264}")
    [video] = result(work, wide)["streams"]
    assert (video["width"], video["height"]) == (128, 64)
    assert result(work, hdr(media, "smpte2084"))["streams"][0]["hdr"] is True


def test_rotation_is_clockwise(media: Media, work: Work, tmp_path: Path) -> None:
    """The matrix of a phone held upright, whose picture a player turns clockwise by a quarter."""
    content = bytearray(media.made("flat.mp4", f"{PICTURE} {X264}").read_bytes())
    unity = bytes.fromhex("00010000" + "00000000" * 3 + "00010000" + "00000000" * 3 + "40000000")
    quarter = bytes.fromhex("00000000" + "00010000" + "00000000" + "ffff0000" + "00000000" * 4 + "40000000")
    at = content.rindex(unity)
    content[at : at + 36] = quarter
    (path := tmp_path / "turned.mp4").write_bytes(content)
    [video] = result(work, path)["streams"]
    assert (video["rotation"], video["width"], video["height"]) == (90, 64, 96)


@pytest.mark.slow
def test_lengths_are_those_of_what_is_there(media: Media, work: Work) -> None:
    """A joined broadcast, a sound whose header is missing, and a song with a cover."""
    found = probe(work, broadcasts(media, 0, 0))
    assert found["result"]["duration_s"] > 1.5 and "joined" in found["warnings"][0]
    quiet = "-f lavfi -i sine=d=3 -f lavfi -i anullsrc=d=9 -filter_complex [0][1]concat=v=0:a=1"
    vbr = media.made("vbr.mp3", f"{quiet} -c:a libmp3lame -q:a 4 -write_xing 0")
    assert result(work, vbr)["duration_s"] == pytest.approx(12, abs=0.1)
    song = result(work, media.song_with_cover())
    assert [(s["type"], s.get("cover")) for s in song["streams"]] == [("audio", None), ("video", True)]
    assert "faststart" not in result(work, vbr)


def test_loudness_and_true_peak_are_measured(media: Media, work: Work) -> None:
    tone = media.made("loud.wav", "-f lavfi -i sine=f=997:r=48000:d=4 -af volume=6dB -ac 2")
    found = result(work, tone, loudness=True)
    assert found["loudness_lufs"] == pytest.approx(-15.0, abs=1.5)
    assert found["true_peak_dbtp"] == pytest.approx(found["loudness_lufs"], abs=1.5)
    assert not {"loudness_lufs", "true_peak_dbtp"} & set(result(work, tone))
    for quiet in (media.made("none.wav", "-f lavfi -i anullsrc=d=1"), media.video(audio=False)):
        found = result(work, quiet, loudness=True)
        assert found["loudness_lufs"] is found["true_peak_dbtp"] is None


@pytest.mark.slow
def test_a_file_of_many_streams_is_listed_in_part(media: Media, work: Work) -> None:
    path = media.made("many.mkv", f"-f lavfi -i sine=d=0.1 {'-map 0 ' * 70} -c:a pcm_s16le")
    found = probe(work, path)
    assert len(found["result"]["streams"]) == 64
    assert found["warnings"] == ["url_media: the file has 70 streams; the first 64 are listed"]


@pytest.mark.parametrize("name", ["page.html", "picture.png"])
def test_what_is_no_media_is_an_error(name: str, media: Media, work: Work, tmp_path: Path) -> None:
    (page := tmp_path / "page.html").write_text("<!doctype html><title>x</title>")
    path = page if name == "page.html" else media.made(name, "-f lavfi -i testsrc2=size=64x64 -frames:v 1")
    with pytest.raises(AssetInvalid, match="not a video or sound"):
        probe(work, path)
