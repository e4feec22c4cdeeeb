"""A picture that is encoded anew becomes what every player takes, with the colours that it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.adiciona_audio.listen import add
from tests.ffmpeg_ops.media import HDR, Media, frames, hdr, psnr, stream


def lengthened(work: Work, media: Media, video: Path) -> None:
    """By a longer sound, for which the picture is encoded anew."""
    assert add(work, video, media.tone(1.0), length="audio")["encoder"] != "copy"
    assert stream(work.output("video"), "video")["pix_fmt"] == "yuv420p"


@pytest.mark.parametrize("transfer", HDR)
def test_hdr_becomes_bright_sdr(transfer: str, media: Media, work: Work) -> None:
    lengthened(work, media, hdr(media, transfer))
    now = stream(work.output("video"), "video")
    assert [now[tag] for tag in ("color_space", "color_primaries", "color_transfer")] == ["bt709"] * 3
    for picture in frames(work.output("video"))[[5, -1]]:
        assert picture[:, 20:120].mean() < 8, "black is black"
        assert 215 < picture[:, 200:300].mean() < 245, "paper is white, not gray"


def test_hdr_that_is_copied_stays_hdr(media: Media, work: Work) -> None:
    assert add(work, hdr(media, "smpte2084"), media.tone(1.0))["encoder"] == "copy"
    assert stream(work.output("video"), "video")["color_transfer"] == "smpte2084"


def test_full_range_becomes_limited_with_the_same_levels(media: Media, work: Work) -> None:
    source = "-f lavfi -i color=0xF0F0F0:size=64x48:rate=25:duration=0.2 -vf scale=out_range=pc,format=yuvj420p"
    video = media.made("full.mp4", f"{source} -color_range pc -c:v libx264 -preset ultrafast")
    lengthened(work, media, video)
    assert stream(work.output("video"), "video").get("color_range") in {"tv", None}
    assert frames(work.output("video"), gray=False).mean() == pytest.approx(240, abs=2)


@pytest.mark.parametrize("pixels", ["yuv422p10le", "yuv444p", "yuv422p"])
def test_other_depths_and_samplings_keep_their_levels(pixels: str, media: Media, work: Work) -> None:
    source = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.4 -c:v libx264 -preset ultrafast -qp 5"
    video = media.made(f"{pixels}.mp4", f"{source} -pix_fmt {pixels}")
    lengthened(work, media, video)
    assert psnr(frames(work.output("video"))[:10], frames(video)) > 30
