"""Frames have the shape and colours that players show, whatever the clip is like."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ffmpeg_ops.engine.clips.frames import Target, frames
from ffmpeg_ops.engine.stills.camera import Box
from ffmpeg_ops.engine.stills.frames import planes_of, render
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine.clips.numbered import opened
from tests.ffmpeg_ops.media import HDR, X264, Media, hdr, psnr

Luma = NDArray[np.uint8]
# A white square of 60 pixels in the middle of a black picture.
SQUARE = "drawbox=x=(iw-60)/2:y=(ih-60)/2:w=60:h=60:color=white:t=fill"


def first(path: Path, work: Work, size: tuple[int, int], fit: str = "cover", background: str = "blur") -> Luma:
    target = Target(size, Fraction(25), fit, background)
    with frames(opened(path, work), target, start_s=0, count=1, work=work) as found:
        return next(found)


def square(luma: Luma) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is white."""
    rows, columns = np.nonzero((luma > 128).any(axis=1))[0], np.nonzero((luma > 128).any(axis=0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def video(media: Media, size: str, more: str = "", name: str = "") -> Path:
    source = f"-f lavfi -i color=black:size={size}:rate=25:duration=0.2,{SQUARE}"
    return media.made(f"square-{size}-{name or 'plain'}.mp4", f"{source}{more} {X264} -qp 5")


@pytest.mark.parametrize(
    ("size", "fit", "found"),
    [
        ((320, 180), "cover", (130, 60, 60, 60)),
        ((180, 320), "cover", (37, 107, 106, 106)),
        ((180, 320), "contain", (73, 143, 34, 34)),
        ((640, 180), "contain", (290, 60, 60, 60)),
        ((640, 180), "cover", (260, 30, 120, 120)),
    ],
)
def test_the_middle_stays_in_the_middle_undistorted(
    size: tuple[int, int], fit: str, found: tuple[int, ...], media: Media, work: Work
) -> None:
    frame = first(video(media, "320x180"), work, size, fit, "#000000")
    assert square(frame[: size[1]]) == pytest.approx(found, abs=2)


@pytest.mark.parametrize("stored", ["160x180", "321x179"])
def test_pixels_that_are_not_square_and_odd_sides(stored: str, media: Media, work: Work) -> None:
    """A picture stored narrow is shown wide, as players show it; an odd side leaves no dark line at the edge."""
    wide = stored == "160x180"
    source = f"-f lavfi -i color=white:size={stored}:rate=25:duration=0.2"
    options = (
        "-vf setsar=2 -c:v libx264 -pix_fmt yuv420p"
        if wide
        else "-vf format=yuv444p,scale=321:179,setsar=1 -c:v libx264"
    )
    white = media.made(f"white-{stored}.mp4", f"{source} {options} -qp 5")
    frame = first(white, work, (320, 180), "contain", "#000000")[:180]
    assert frame.min() > 225
    cropped = first(white, work, (100, 100), "cover")[:100]
    assert cropped.min() > 225


def test_a_rotated_clip_is_upright(media: Media, work: Work) -> None:
    """Stored in landscape with white on its left, it is shown in portrait with white at one end."""
    rotated = media.rotated()
    frame = first(rotated, work, (90, 160), "contain", "#FFFFFF")[:160]
    assert np.ptp(frame) < 20, "it fills a portrait picture, and nothing surrounds it"


@pytest.mark.parametrize("transfer", HDR)
def test_hdr_becomes_bright_sdr(transfer: str, media: Media, work: Work) -> None:
    frame = first(hdr(media, transfer), work, (640, 180), "contain", "#000000")[:180]
    assert frame[20:160, 330:470].mean() > 200 and frame[20:160, 170:300].mean() < 24


@pytest.mark.parametrize("color", ["#20A060", "#FF0000", "#0010FF", "#FFFFFF", "#000000"])
def test_a_background_has_exactly_the_colour(color: str, media: Media, work: Work) -> None:
    frame = first(video(media, "320x180"), work, (180, 320), "contain", color)
    rgb = np.array([[list(bytes.fromhex(color[1:]))]], np.uint8)
    y, cb, cr = (int(plane[0, 0]) for plane in planes_of(rgb))
    assert {int(frame[0, 0]), int(frame[319, 179])} == {y}
    assert (frame[320, 0], frame[320 + 80, 0]) == (cb, cr)


def test_a_blurred_background_is_the_clip_s_own_and_blurred(media: Media, work: Work) -> None:
    source = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=0.2"
    clip = media.made("blurred.mp4", f"{source} {X264} -qp 5")
    frame = first(clip, work, (180, 320), "contain")[:320].astype(float)
    behind, shown = frame[:100], frame[120:200]
    assert np.abs(np.diff(behind)).max() < 20 < np.abs(np.diff(shown)).max()
    assert behind.std() > 5, "it is no plain colour"


@pytest.mark.parametrize(("width", "untagged"), [(1280, "bt709"), (320, "smpte170m")])
def test_untagged_colours_are_those_that_players_show(width: int, untagged: str, media: Media, work: Work) -> None:
    color = f"-f lavfi -i color=0xC02040:size={width}x64:rate=25:duration=0.2,format=gbrp -vf scale=out_color_matrix={untagged}"
    frame = first(media.made(f"untagged-{width}.mp4", f"{color} {X264} -qp 1"), work, (64, 64))
    y, cb, cr = (int(plane[0, 0]) for plane in planes_of(np.array([[[0xC0, 0x20, 0x40]]], np.uint8)))
    found = (frame[:64].mean(), frame[64:80].mean(), frame[80:].mean())
    assert found == pytest.approx((y, cb, cr), abs=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p", "yuvj420p"])
def test_other_formats_have_the_same_colours(pixels: str, media: Media, work: Work) -> None:
    tags = "-colorspace bt709" if pixels != "yuvj420p" else "-colorspace bt709 -color_range pc"
    source = "-f lavfi -i color=0x20C060:size=1280x64:rate=25:duration=0.2,format=gbrp -vf scale=out_color_matrix=bt709"
    source += ":out_range=pc" if pixels == "yuvj420p" else ""
    path = media.made(f"{pixels}.mp4", f"{source} -c:v libx264 -preset ultrafast -qp 1 -pix_fmt {pixels} {tags}")
    frame = first(path, work, (64, 64))
    y, cb, cr = (int(plane[0, 0]) for plane in planes_of(np.array([[[0x20, 0xC0, 0x60]]], np.uint8)))
    assert (frame[:64].mean(), frame[64:80].mean(), frame[80:].mean()) == pytest.approx((y, cb, cr), abs=1.5)


@pytest.mark.slow
def test_a_clip_looks_like_a_still_of_the_same_picture(media: Media, work: Work) -> None:
    """In chroma too, which is sited left as in every frame that is made here."""
    picture = media.made("picture.png", "-f lavfi -i testsrc2=size=640x360 -vf gblur=2 -frames:v 1")
    pixels = np.ascontiguousarray(cv2.imread(str(picture))[:, :, ::-1])
    clip = media.made("picture.mkv", f"-i {picture.name} -c:v libx264rgb -qp 0")
    for size in ((640, 360), (960, 540)):
        still = np.frombuffer(next(iter(render(pixels, [Box(0, 0, 640, 360)], size))), np.uint8)
        frame = first(clip, work, size).ravel()
        luma = size[0] * size[1]
        assert psnr(frame[:luma], still[:luma]) > 46 and psnr(frame[luma:], still[luma:]) > 46
