"""Frames taken out of videos, compared with all their decoded frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ffmpeg_ops.operation import OPERATIONS, Work
from tests.ffmpeg_ops.media import X264, Media, frames, psnr
from wire.errors import AssetInvalid, InvalidParams

slow = partial(pytest.param, marks=pytest.mark.slow)
SOURCE = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=2"


def take(directory: Path, video: Path, **params: Any) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """What the operation returns, and the pictures that it made, as RGB."""
    operation = OPERATIONS["frame"]
    loaded = operation.params().load({"url_video": "https://example.com/v", "format": "png", **params})
    work = Work(directory, outputs=operation.declared(loaded))
    made = operation.run(work, loaded, {"url_video": video})
    return made, [np.asarray(Image.open(work.output(name)).convert("RGB")) for name in work.outputs]


def nearest(picture: NDArray[Any], shown: NDArray[Any]) -> int:
    """The number of the frame that the picture shows. Fails where it shows none."""
    likeness = [psnr(picture, frame) for frame in shown]
    assert max(likeness) > 22  # chroma is interpolated differently
    return int(np.argmax(likeness))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", f"{X264} -bf 2 -g 250"),
        slow("short-groups.mp4", f"{X264} -bf 2 -g 10"),
        slow("plain.mkv", f"{X264} -bf 2 -g 250"),
        slow("plain.webm", "-c:v libvpx -deadline realtime -cpu-used 8"),
        slow("long-groups.ts", f"{X264} -bf 2 -g 250"),
        slow("begins-late.ts", f"{X264} -g 12 -output_ts_offset 100"),
        slow("asp.avi", "-c:v mpeg4 -q:v 2"),
        slow("raw.h264", f"{X264} -bf 0"),
        slow("begins-late.mp4", f"{X264} -bf 2 -output_ts_offset 1"),
    ],
)
def test_each_moment_gives_the_frame_that_is_shown_then(name: str, options: str, media: Media, tmp_path: Path) -> None:
    video = media.made(name, f"{SOURCE} {options}")
    at = [0, 0.03, 0.041, 1.0, 1.97, 2.0, "first", "middle", "last"]
    made, pictures = take(tmp_path, video, at=at)
    shown = frames(video, gray=False)
    assert [nearest(picture, shown) for picture in pictures] == [0, 0, 1, 25, 49, 49, 0, 25, 49]
    assert made["result"] == {
        "times": pytest.approx([0, 0, 0.04, 1, 1.96, 1.96, 0, 1, 1.96], abs=0.002),
        "width": 96,
        "height": 64,
    }
    assert "warnings" not in made


@pytest.mark.slow
@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_pictures_have_the_format_and_width_that_were_asked_for(format: str, media: Media, tmp_path: Path) -> None:
    made, [picture] = take(tmp_path, media.video(), at="first", format=format, width=300)
    [path] = tmp_path.glob("output-frame.*")
    with Image.open(path) as opened:
        assert opened.format == format.upper()
    assert picture.shape[1] == 300 == made["result"]["width"]
    original = media.video()
    shown = np.asarray(Image.fromarray(frames(original, gray=False)[0]).resize((300, 200)))
    assert psnr(picture, shown) > 25


def test_a_moment_after_the_end_is_an_error(media: Media, tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"at\[1\]: the video ends after 2.00 seconds"):
        take(tmp_path, media.made("plain.mp4", f"{SOURCE} {X264} -bf 2 -g 250"), at=[1, 2.1])


@pytest.mark.slow
def test_rotation_pixel_shape_and_odd_sides_are_as_shown(media: Media, tmp_path: Path) -> None:
    odd = media.made("odd.mkv", "-f lavfi -i color=red:size=65x49:rate=25:d=0.2,format=yuv444p -c:v ffv1")
    _, [picture] = take(tmp_path, odd, at="last")
    assert picture.shape == (49, 65, 3) and (picture[:, :, 0] > 240).all() and (picture[:, :, 1:] < 16).all()
    wide = media.made("wide.mp4", f"-f lavfi -i testsrc2=size=64x64:rate=25:d=0.2,setsar=2 {X264}")
    _, [picture] = take(tmp_path, wide)
    assert picture.shape == (64, 128, 3)
    upright = media.rotated()
    _, [picture] = take(tmp_path, upright)
    assert picture.shape == frames(upright, gray=False)[0].shape
    assert nearest(picture, frames(upright, gray=False)) >= 0


@pytest.mark.parametrize(("size", "matrix"), [("1280x64", "bt709"), ("320x64", "smpte170m")])
def test_untagged_colours_are_those_that_players_show(size: str, matrix: str, media: Media, tmp_path: Path) -> None:
    colour = f"-f lavfi -i color=0x20C060:size={size}:rate=25:d=0.08"
    video = media.made(f"{matrix}.mp4", f"{colour} -vf scale=out_color_matrix={matrix} {X264} -qp 1")
    _, [picture] = take(tmp_path, video)
    assert np.abs(picture.reshape(-1, 3).mean(axis=0) - (0x20, 0xC0, 0x60)).max() < 4


@pytest.mark.slow
def test_the_last_frame_is_the_last_that_can_be_decoded(media: Media, tmp_path: Path) -> None:
    """Of a file whose end is lost: its header states two seconds."""
    whole = media.made("ends.mkv", f"{SOURCE} {X264} -bf 0 -g 1").read_bytes()
    (cut := tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 96 // 100])
    made, [picture] = take(tmp_path, cut, at="last")
    shown = frames(cut, gray=False)
    assert nearest(picture, shown[-3:]) == 2
    assert 1.8 < made["result"]["times"][0] < 1.96


@pytest.mark.slow
def test_a_frame_that_cannot_be_decoded_gives_way_to_the_one_before(media: Media, tmp_path: Path) -> None:
    content = bytearray(media.made("intra.mkv", f"{SOURCE} -c:v mjpeg -q:v 3").read_bytes())
    starts = [i for i in range(len(content)) if content[i : i + 3] == b"\xff\xd8\xff"]
    for at in (starts[30], starts[31]):
        content[at : at + 700] = bytes(700)
    (damaged := tmp_path / "damaged.mkv").write_bytes(content)
    made, pictures = take(tmp_path, damaged, at=[1.24, 1.28])
    shown = frames(media.made("intra.mkv", f"{SOURCE} -c:v mjpeg -q:v 3"), gray=False)
    assert [nearest(picture, shown) for picture in pictures] == [29, 32]
    assert made["result"]["times"] == pytest.approx([1.16, 1.28], abs=0.002)
    assert made["warnings"] == ["at[0]: the frame at 1.240 s cannot be decoded; that at 1.160 s was used"]


def test_what_is_no_video_is_an_error(media: Media, tmp_path: Path) -> None:
    with pytest.raises(AssetInvalid, match="no video stream"):
        take(tmp_path, media.tone(1.0))
