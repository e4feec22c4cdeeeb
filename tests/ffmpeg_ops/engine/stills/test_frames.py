"""Rendered frames: the right pixels in the right places and colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ffmpeg_ops.engine.stills import frames
from ffmpeg_ops.engine.stills.camera import Box, Move
from ffmpeg_ops.engine.stills.frames import render, span
from tests.conftest import ROOT
from tests.ffmpeg_ops.media import psnr

SIZE = (1920, 1080)
SMALL = (160, 90)
SOURCE = (680, 383)  # as many pixels as the most magnified frame can use
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def planes(frame: bytes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width, height = size
    luma, rest = frame[: width * height], frame[width * height :]
    half = (height // 2, width // 2)
    chroma = np.frombuffer(rest, np.uint8).reshape(2, *half)
    return np.frombuffer(luma, np.uint8).reshape(height, width), chroma[0], chroma[1]


def luma_of(image: Image.Image) -> np.ndarray:
    rgb = np.asarray(image, float)
    return 16 + (rgb @ [0.2126, 0.7152, 0.0722]) * 219 / 255


def chroma_of(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.asarray(image, float)
    luma = rgb @ [0.2126, 0.7152, 0.0722]
    return 128 + (rgb[..., 2] - luma) / 1.8556 * 224 / 255, 128 + (rgb[..., 0] - luma) / 1.5748 * 224 / 255


def resampled(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """A box resampled by Pillow."""
    right, bottom = min(image.width, box.left + box.width), min(image.height, box.top + box.height)
    return image.resize(size, Image.Resampling.LANCZOS, (max(0, box.left), max(0, box.top), right, bottom))


@pytest.fixture(scope="module")
def ends() -> dict[str, tuple[bytes, Image.Image]]:
    """First and last frame of the sample, each with Pillow's resampling of the same box."""
    photo = Image.open(ROOT / "samples" / "photo.jpg").convert("RGB")
    boxes = Move().boxes(photo.size, SIZE, 120)
    made = list(render(np.asarray(photo), [boxes[0], boxes[-1]], SIZE))
    references = [resampled(photo, box, SIZE) for box in (boxes[0], boxes[-1])]
    return dict(zip(["first", "last"], zip(made, references, strict=True), strict=True))


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_frame_is_the_crop_as_pillow_resamples_it(which: str, ends: dict[str, Any]) -> None:
    frame, reference = ends[which]
    luma, cb, cr = planes(frame, SIZE)
    assert psnr(luma, luma_of(reference)) > 40
    half = reference.resize((960, 540), Image.Resampling.BOX)
    assert psnr(cb, chroma_of(half)[0]) > 38 and psnr(cr, chroma_of(half)[1]) > 38
    inner, wanted = luma[2:-2, 2:-2], luma_of(reference)
    shifted = {(x, y): psnr(inner, wanted[2 + y : 1078 + y, 2 + x : 1918 + x]) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert max(shifted, key=lambda at: shifted[at]) == (0, 0)


@pytest.mark.parametrize("size", [(3840, 2160), (4000, 3000), (640, 360), (700, 2100)])
def test_large_and_small_images_are_resampled_well(size: tuple[int, int]) -> None:
    x, y = np.meshgrid(np.linspace(0, 40, size[0]), np.linspace(0, 25, size[1]))
    wave = ((np.sin(x) * np.cos(y) + 1) * 127).astype(np.uint8)
    image = Image.fromarray(np.dstack([wave, wave[::-1], wave[:, ::-1]]))
    boxes = Move().boxes(size, (480, 270), 4)
    for box, frame in zip(boxes, render(np.asarray(image), boxes, (480, 270)), strict=True):
        reference = resampled(image, box, (480, 270))
        assert psnr(planes(frame, (480, 270))[0], luma_of(reference)) > 35


@pytest.mark.parametrize("colour", [RED, BLUE, WHITE, (0, 255, 0), (0, 0, 0), (255, 255, 0), (128, 128, 128)])
def test_colours_are_bt709(colour: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (64, 36), colour)
    frame = next(render(np.asarray(image), Move().boxes((64, 36), SMALL, 1), SMALL))
    wanted = [luma_of(image)[0, 0], *[plane[0, 0] for plane in chroma_of(image)]]
    for plane, value in zip(planes(frame, SMALL), wanted, strict=True):
        assert np.abs(plane.astype(float) - value).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (2, 500), (500, 2), (3, 3)])
def test_tiny_and_thin_images_are_rendered(size: tuple[int, int]) -> None:
    boxes = Move().boxes(size, SMALL, 3)
    got = list(render(np.asarray(Image.new("RGB", size, RED)), boxes, SMALL))
    assert [len(frame) for frame in got] == [160 * 90 * 3 // 2] * 3
    assert len(set(got)) == 1, "one colour stays one colour"


@given(st.floats(200, 3000), st.floats(300, 6000), st.sampled_from([540, 960, 1080, 1920]), st.sampled_from([0, -0.25]))
def test_a_span_samples_within_its_error(low: float, width: float, size: int, siting: float) -> None:
    found = span(low, width, size, siting)
    wanted = low + (np.arange(size) + 0.5 + siting) * width / size - 0.5
    got = found.start + (np.arange(size) + found.skip + 0.5) * found.taken / found.made - 0.5
    assert np.abs(got - wanted).max() == pytest.approx(found.error, abs=1e-6)
    assert 0 <= found.skip <= found.made - size


@pytest.mark.parametrize("move", [Move(), Move(focus=(0, 0)), Move(focus=(0.3, 0.8), amount=1.1), Move("pan_right")])
def test_steps_between_frames_are_those_of_the_camera(move: Move) -> None:
    """Measured on the frames, to some hundredths of a pixel, by the center of a dot."""
    source, count = (640, 360), 24
    y, x = np.mgrid[0 : source[1], 0 : source[0]]
    dot = 255 * np.exp(-((x - 300) ** 2 + (y - 170) ** 2) / (2 * 12.0**2))
    image = Image.fromarray(dot.astype(np.uint8)).convert("RGB")
    boxes = move.boxes(source, (320, 180), count)
    columns, rows = np.arange(320), np.arange(180)
    for box, frame in zip(boxes, render(np.asarray(image), boxes, (320, 180)), strict=True):
        luma = planes(frame, (320, 180))[0].astype(float) - 16
        seen = ((luma.sum(0) * columns).sum() / luma.sum(), (luma.sum(1) * rows).sum() / luma.sum())
        ideal = ((300.5 - box.left) / box.width * 320 - 0.5, (170.5 - box.top) / box.height * 180 - 0.5)
        assert seen == pytest.approx(ideal, abs=0.05)


def test_frames_come_in_order_and_each_is_whole() -> None:
    image = Image.linear_gradient("L").resize((640, 360)).convert("RGB")
    boxes = Move("pan_down", amount=2).boxes(image.size, SMALL, 60)
    brightness = [planes(frame, SMALL)[0].mean() for frame in render(np.asarray(image), boxes, SMALL)]
    assert len(brightness) == 60 and all(np.diff(brightness) > 0)


def test_a_reader_may_stop_early_and_a_still_shot_is_identical_frames() -> None:
    image = Image.effect_noise((320, 180), 90).convert("RGB")
    reader = render(np.asarray(image), Move("none").boxes(image.size, SMALL, 500), SMALL)
    assert len({next(reader) for _ in range(5)}) == 1
    reader.close()


def test_a_large_zoom_uses_sources_of_the_right_size() -> None:
    camera = frames._Camera(np.asarray(Image.new("RGB", SOURCE)), Move(amount=4).boxes(SOURCE, SMALL, 10), SMALL)
    assert len(camera._lumas) > 5
    for box in Move(amount=4).boxes(SOURCE, SMALL, 10):
        source = camera._luma(box)
        step = box.width / SMALL[0] * source.size[0] / SOURCE[0]
        assert step >= 1.05 and (step <= 1.06 * 1.17 * 1.01)
