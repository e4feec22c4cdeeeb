"""Encoded videos get pixels that every player supports and keep their colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ffmpeg_ops.media import HDR, X264, Media, VideoWork, frames, hdr, psnr, run, stream

SRT = "1\n00:00:00,000 --> 00:20:00,000\nTexto\n"
STYLE = {"size": 0.2, "outline": 0, "shadow": 0, "position": "bottom-left"}


def encoded(name: str, video: Path, media: Media, work: VideoWork) -> dict[str, Any]:
    """The stats and video stream of an operation that encodes; adicionaAudio does so for a longer sound."""
    if name == "caption":
        stats = run(name, work, {"subtitles": SRT, "style": STYLE}, url_video=video)
    else:
        stats = run(name, work, {"length": "audio"}, url_video=video, url_audio=media.tone(1.0))
    assert stats["encoder"] != "copy"
    made = stream(work.video, "video")
    assert made["pix_fmt"] == "yuv420p"
    return {**made, **stats}


@pytest.mark.parametrize("transfer", HDR)
@pytest.mark.parametrize("name", ["caption", "adicionaAudio"])
def test_hdr_becomes_bright_sdr(name: str, transfer: str, media: Media, work: VideoWork) -> None:
    made = encoded(name, hdr(media, transfer), media, work)
    assert [made[tag] for tag in ("color_space", "color_primaries", "color_transfer")] == ["bt709"] * 3
    for frame in frames(work.video)[[5, -1]]:
        assert frame[20:60, 20:120].mean() < 8, "black is black"
        assert 215 < frame[20:60, 200:300].mean() < 245, "paper is white, not gray"
        assert name != "caption" or frame[100:, :150].max() >= 250, "captions are white"


def test_hdr_that_is_copied_stays_hdr(media: Media, work: VideoWork) -> None:
    stats = run("adicionaAudio", work, url_video=hdr(media, "smpte2084"), url_audio=media.tone(1.0))
    assert stats["encoder"] == "copy"
    assert stream(work.video, "video")["color_transfer"] == "smpte2084"


@pytest.mark.parametrize("name", ["caption", "adicionaAudio"])
def test_full_range_becomes_limited_with_the_same_colours(name: str, media: Media, work: VideoWork) -> None:
    source = "-f lavfi -i color=0xF0F0F0:size=320x180:rate=25:duration=0.2 -vf scale=out_range=pc,format=yuvj420p"
    video = media.made("full.mp4", f"{source} -color_range pc -c:v libx264 -preset ultrafast")
    assert encoded(name, video, media, work).get("color_range") in {"tv", None}
    pictures = frames(work.video, gray=False)
    assert pictures[2, :60].mean() == pytest.approx(240, abs=2)
    assert name != "caption" or pictures.max() >= 253, "captions are white"


@pytest.mark.slow
@pytest.mark.parametrize("pixels", ["yuv422p10le", "yuv444p", "yuv422p", "gray"])
@pytest.mark.parametrize("name", ["caption", "adicionaAudio"])
def test_other_depths_and_samplings_keep_their_levels(name: str, pixels: str, media: Media, work: VideoWork) -> None:
    source = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.4 -c:v libx264 -preset ultrafast -qp 5"
    video = media.made(f"{pixels}.mp4", f"{source} -pix_fmt {pixels}")
    encoded(name, video, media, work)
    assert psnr(frames(work.video)[:10, :30], frames(video)[:, :30]) > 30


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_colour_tags_of_sdr_are_kept(matrix: str, media: Media, work: VideoWork) -> None:
    tags = f"-colorspace {matrix} -color_primaries {matrix} -color_trc {matrix} -color_range tv"
    setparams = f"-vf setparams=colorspace={matrix}:color_primaries={matrix}:color_trc={matrix}:range=tv"
    source = "-f lavfi -i color=red:size=96x64:rate=25:duration=0.2"
    video = media.made(f"tags-{matrix}.mp4", f"{source} {setparams} {tags} {X264}")
    before, after = stream(video, "video"), encoded("caption", video, media, work)
    for tag in ("color_space", "color_primaries", "color_transfer", "color_range"):
        assert after.get(tag) == before[tag]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("caption", "95x63"), ("caption", "96x63"), ("adicionaAudio", "95x64")])
def test_odd_sides_become_even(name: str, size: str, media: Media, work: VideoWork) -> None:
    source = f"-f lavfi -i testsrc=size={size}:rate=25:duration=0.4"
    made = encoded(name, media.made(f"odd-{size}.mp4", f"{source} -c:v libx264 -pix_fmt yuv444p"), media, work)
    assert (made["width"], made["height"]) == (96, 64)
    assert np.ptp(frames(work.video)[0]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["caption", "adicionaAudio"])
def test_frames_of_another_size_are_fitted_into_the_first(name: str, media: Media, work: VideoWork) -> None:
    """As screen shares and calls are recorded: white frames of 160x96, then of 96x160."""
    parts = [
        media.made(f"{size}.ivf", f"-f lavfi -i color=white:size={size}:rate=25:d=0.4 -c:v libvpx").read_bytes()
        for size in ("160x96", "96x160")
    ]
    joined, rest = bytearray(parts[0]), parts[1][32:]
    for i in range(10, 20):
        size = int.from_bytes(rest[:4], "little")
        joined += rest[:4] + i.to_bytes(8, "little") + rest[12 : 12 + size]
        rest = rest[12 + size :]
    (media.folder / "changing.ivf").write_bytes(joined)
    video = media.made("changing.webm", "-i changing.ivf -c copy")
    made = encoded(name, video, media, work)
    assert (made["width"], made["height"]) == (160, 96)
    shown = frames(work.video)
    top = shown[:, :50]
    assert top[5].mean() > 240, "the first size fills the picture"
    columns = top[15].mean(axis=0) > 128
    assert np.flatnonzero(columns)[[0, -1]] == pytest.approx([51, 108], abs=3), "96x160 becomes 58x96, in the middle"
