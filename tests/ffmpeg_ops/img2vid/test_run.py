from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marshmallow import ValidationError
from PIL import Image

from ffmpeg_ops.engine import probe
from ffmpeg_ops.engine.picture_params import parse_size
from ffmpeg_ops.img2vid import Img2VidParams
from ffmpeg_ops.operation import OPERATIONS, Work
from tests.ffmpeg_ops import media as look
from tests.ffmpeg_ops.media import Media, VideoWork, psnr, run, stream
from wire.errors import AssetInvalid

SIZE = (1920, 1080)


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("red") / "red.png"
    Image.new("RGB", (160, 90), (255, 0, 0)).save(path)
    return path


# --- params ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("duration", value) for value in (0, -1, 60.1, "long", "nan", "inf")],
        *[("frame_rate", value) for value in (0, 0.5, 61, "nan", [24])],
        *[("size", value) for value in ("big", "641x360", "640x361", "8x8", "3842x100", "3840x3840")],
        *[("size", value) for value in ("640x360\nx", "-640x360", "٦٤٠x٣٦٠x")],
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Img2VidParams().load({"url_image": "https://example.com/a.jpg", name: value})
    assert list(caught.value.normalized_messages()) == [name]


def test_defaults_and_sizes() -> None:
    params = Img2VidParams().load({"url_image": "https://example.com/a.jpg"})
    assert (params["duration"], params["frame_rate"], params["motion"], params["amount"]) == (5, 24, "zoom_in", 1.324)
    assert [parse_size(name) for name in ("16:9", "9:16", "1:1")] == [(1920, 1080), (1080, 1920), (1080, 1080)]
    assert [parse_size(name) for name in ("4:5", "4k", "4K")] == [(1080, 1350), (3840, 2160), (3840, 2160)]
    assert [parse_size(name) for name in ("640x360", "2160x3840")] == [(640, 360), (2160, 3840)]


@pytest.mark.parametrize(
    "params",
    [
        {"size": "180x320", "motion": "pan_right", "fit": "cover"},
        {"size": "320x180", "motion": "zoom_out", "fit": "contain"},
        {"size": "200x200", "motion": "none", "fit": "contain", "background": "#ff0000"},
        {"size": "320x180", "motion": "pan_up", "amount": 4, "easing": "ease_in_out", "focus_x": 0},
    ],
)
def test_every_choice_makes_a_video_of_its_size(params: dict[str, Any], samples: Path, tmp_path: Path) -> None:
    loaded = Img2VidParams().load({"url_image": "https://example.com/a.jpg", "duration": 0.25, **params})
    stats = OPERATIONS["img2vid"].run(Work(tmp_path), loaded, {"url_image": samples / "photo.jpg"})
    assert (stats["width"], stats["height"]) == parse_size(params["size"])
    assert stats["frames"] == 6


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "rate", "count", "exact"),
    [
        *[(0.5, 24, 12, "24/1"), (0.5, 23.976, 12, "24000/1001"), (0.5, 29.97, 15, "30000/1001")],
        *[(0.001, 25, 1, "25/1"), (3.0, 1, 3, "1/1"), (0.2, 12.5, 3, "25/2")],
    ],
)
def test_the_number_of_frames_is_exact(
    duration: float, rate: float, count: int, exact: str, red: Path, work: VideoWork
) -> None:
    stats = run("img2vid", work, {"duration": duration, "frame_rate": rate}, url_image=red)
    video = stream(work.video, "video")
    assert look.frame_count(work.video) == stats["frames"] == count
    assert video["r_frame_rate"] == exact
    assert abs(float(video["duration"]) - duration) <= 1 / rate + 0.001
    assert (stats["width"], stats["height"]) == SIZE
    assert (stats["encoder"], stats["size_bytes"]) == (probe.best().name, work.video.stat().st_size)
    assert work.shares == sorted(work.shares) and work.shares[-1] == 1.0


def test_the_sample_moves_from_the_whole_to_the_zoomed_crop(samples: Path, work: VideoWork) -> None:
    run("img2vid", work, {"duration": 0.25, "frame_rate": 24}, url_image=samples / "photo.jpg")
    got = look.frames(work.video)
    assert len(got) == 6
    photo = Image.open(samples / "photo.jpg").convert("RGB")
    for frame, zoom in ((got[0], 1.0), (got[-1], 1.324)):
        width, height = 1024 / zoom, 576 / zoom
        box = ((1024 - width) / 2, (768 - height) / 2, (1024 + width) / 2, (768 + height) / 2)
        crop = np.asarray(photo.resize(SIZE, Image.Resampling.LANCZOS, box), float)
        assert psnr(frame, crop @ [0.2126, 0.7152, 0.0722]) > 35


@pytest.mark.parametrize("side", [16, 160])
def test_a_plain_image_is_a_plain_video_with_its_colours_declared(side: int, work: VideoWork, tmp_path: Path) -> None:
    Image.new("RGB", (side, side), (255, 0, 0)).save(tmp_path / "red.png")
    run("img2vid", work, {"duration": 0.1}, url_image=tmp_path / "red.png")
    assert np.abs(look.frames(work.video, gray=False).astype(int) - [255, 0, 0]).max() <= 4
    [video] = look.streams(work.video)
    tags = [video[f"color_{name}"] for name in ("range", "space", "transfer", "primaries")]
    assert tags == ["tv", *["bt709"] * 3]
    assert (video["pix_fmt"], video["chroma_location"], float(video["start_time"])) == ("yuv420p", "left", 0.0)


def test_a_photo_without_its_last_bytes_is_shown_with_a_warning(samples: Path, work: VideoWork, tmp_path: Path) -> None:
    photo = tmp_path / "cut.jpg"
    photo.write_bytes((samples / "photo.jpg").read_bytes()[:-2])
    for fit in ("cover", "contain"):
        stats = run("img2vid", work, {"duration": 0.1, "size": "160x90", "fit": fit}, url_image=photo)
        assert stats["warnings"] == ["url_image: the image is cut off; 100.0% of its lines could be read"]


def test_a_video_is_no_image(media: Media, work: VideoWork) -> None:
    with pytest.raises(AssetInvalid, match="url_image"):
        run("img2vid", work, url_image=media.video())
