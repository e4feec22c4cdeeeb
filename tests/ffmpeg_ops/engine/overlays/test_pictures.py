"""`pictures.layers`: pictures with alpha, animations, and files made to do harm."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ffmpeg_ops.engine import confined
from ffmpeg_ops.engine.i420 import Layer, blank, planes
from ffmpeg_ops.engine.overlays import picture_reading, pictures
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine.overlays.support import BLUE, over, params
from wire.errors import AssetInvalid, AssetTooLarge, Cancelled

SIZE = (320, 180)
NAME = "overlays[0].url_image"
RED, GREEN = (255, 0, 0), (0, 255, 0)


def layers(
    work: Work, path: Path, seconds: float = 5, size: tuple[int, int] = SIZE, **given: Any
) -> tuple[list[tuple[Layer | None, int]], list[str]]:
    warnings: list[str] = []
    loaded = params(url_image="https://example.com/a.png", **given)
    return list(pictures.layers(path, NAME, loaded, size, seconds, work, warnings.append)), warnings


def still(work: Work, path: Path, **given: Any) -> Layer:
    ((layer, ms),), warned = layers(work, path, **given)
    assert layer is not None and ms == 0 and not warned
    return layer


def square(alpha: int = 255, color: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGBA", size, (*color, alpha))


def animated(path: Path, frames: list[Image.Image], duration: Any = 100, **more: Any) -> Path:
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, **more)
    return path


def luma(color: tuple[int, int, int]) -> int:
    return int(planes(blank((2, 2), "#{:02x}{:02x}{:02x}".format(*color)))[0][0, 0])


def shade(layer: Layer | None) -> int:
    """The middle of a layer's luma over a black frame."""
    assert layer is not None
    made = planes(over(layer, SIZE, "#000000"))[0]
    return int(made[layer.y + layer.size[1] // 2, layer.x + layer.size[0] // 2])


@pytest.mark.parametrize("kind", ["png", "webp", "gif", "tiff", "avif"])
def test_what_is_transparent_shows_the_frame(kind: str, work: Work, tmp_path: Path) -> None:
    picture = square(0, GREEN)
    picture.paste(square(255, size=(32, 64)), (32, 0))
    path = tmp_path / f"a.{kind}"
    picture.save(path, **({"lossless": True} if kind == "webp" else {"quality": 100} if kind == "avif" else {}))
    layer = still(work, path, width=0.2)
    made, before = over(layer, SIZE), blank(SIZE, BLUE)
    assert layer.size[0] in {32, 34} and layer.x == 160
    for plane, old in zip(planes(made), planes(before), strict=True):
        assert (plane[:, : 156 * plane.shape[1] // 320] == old[:, : 156 * plane.shape[1] // 320]).all()
    assert abs(int(planes(made)[0][90, 180]) - luma(RED)) <= 2


def test_translucent_pixels_are_mixed_and_opacity_counts(work: Work, tmp_path: Path) -> None:
    square(128).save(tmp_path / "a.png")
    assert shade(still(work, tmp_path / "a.png")) == pytest.approx(16 + (luma(RED) - 16) * 128 / 255, abs=1)


def test_no_colour_of_transparent_pixels_shows_at_edges(work: Work, tmp_path: Path) -> None:
    """Programs hide any colour in pixels that are not seen; a picture that is shrunk must not mix it in."""
    picture = Image.new("RGBA", (400, 400), (0, 255, 0, 0))
    picture.paste(square(255, size=(201, 400)), (0, 0))
    picture.save(tmp_path / "a.png")
    layer = still(work, tmp_path / "a.png", width=0.3)
    assert layer.alphas is not None
    assert np.abs(layer.colors[0][layer.alphas[0] > 8].astype(int) - luma(RED)).max() <= 3


def test_a_picture_is_upright_and_in_its_colours(work: Work, tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 40), (200, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "a.jpg", exif=exif, icc_profile=swapped, quality=95)
    layer = still(work, tmp_path / "a.jpg", width=0.125)
    assert layer.size in {(40, 80), (42, 80)}
    assert abs(shade(layer) - luma((200, 40, 40))) <= 2


def test_alpha_stays_where_colours_are_converted(work: Work, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    square(100).save(tmp_path / "a.png", icc_profile=profile)
    layer = still(work, tmp_path / "a.png")
    assert layer.alphas is not None and np.unique(layer.alphas[0][2:-2, 2:-2]).tolist() == [100]


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_has_its_frames_and_their_times(kind: str, work: Work, tmp_path: Path) -> None:
    frames = [square(255, (value, 0, 0)) for value in (50, 150, 250)]
    more = {"lossless": True} if kind == "webp" else {}
    path = animated(tmp_path / f"a.{kind}", frames, [100, 200, 300], **more)
    found, warned = layers(work, path)
    assert not warned
    assert [ms for _, ms in found] == [100, 200, 300]
    assert [shade(layer) for layer, _ in found] == pytest.approx([luma((v, 0, 0)) for v in (50, 150, 250)], abs=2)


def test_frames_of_a_gif_replace_or_cover_each_other_as_it_says(work: Work, tmp_path: Path) -> None:
    left, right = square(0), square(0)
    left.paste(square(255, size=(16, 64)), (0, 0))
    right.paste(square(255, size=(16, 64)), (48, 0))
    for disposal, columns in ((2, [16, 16]), (1, [16, 32])):
        path = animated(tmp_path / f"{disposal}.gif", [left, right], disposal=disposal)
        found, _ = layers(work, path, width=0.2)
        seen = [np.count_nonzero((layer.alphas[0] > 128).any(axis=0)) for layer, _ in found if layer and layer.alphas]
        assert seen == columns


@pytest.mark.parametrize(("written", "shown"), [(0, 100), (10, 100), (20, 20), (50, 50)])
def test_frames_that_are_shown_for_no_time_are_shown_as_browsers_do(
    written: int, shown: int, work: Work, tmp_path: Path
) -> None:
    frames = [square(255, (value, 0, 0)) for value in (50, 250)]
    found, _ = layers(work, animated(tmp_path / "a.gif", frames, written))
    assert [ms for _, ms in found] == [shown] * 2


def noise(count: int, size: tuple[int, int] = (8, 8)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)) for _ in range(count)]


def test_only_what_is_shown_of_an_animation_is_read(work: Work, tmp_path: Path) -> None:
    found, _ = layers(work, animated(tmp_path / "a.gif", noise(50)), seconds=1.15)
    assert len(found) == 12


def test_an_animation_comes_in_several_calls(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one call returns is limited: the worker never holds more of it."""
    path = animated(tmp_path / "a.gif", noise(50))
    whole, _ = layers(work, path)
    calls: list[Any] = []
    run = confined.run

    def shorter(function: Any, arguments: Any, *more: Any, **named: Any) -> confined.Result:
        result = run(function, arguments, *more, **named)
        calls.append(arguments["first"])
        if len(result.facts["shown_ms"]) <= 20:
            return result
        size = result.facts["size"][0] * result.facts["size"][1] * 4
        facts = {**result.facts, "shown_ms": result.facts["shown_ms"][:20], "next": arguments["first"] + 20}
        return confined.Result(facts, result.data[: 20 * size])

    monkeypatch.setattr(confined, "run", shorter)
    parts, _ = layers(work, path)
    assert calls == [0, 20, 40]
    assert [ms for _, ms in parts] == [ms for _, ms in whole]
    assert [shade(layer) for layer, _ in parts] == [shade(layer) for layer, _ in whole]


@pytest.mark.slow
def test_a_long_animation_takes_bounded_memory(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred frames of full HD have 830 MB of pixels. Some are left out, with a warning, and its speed stays."""
    path = animated(tmp_path / "a.gif", noise(100, (32, 18)), 20)
    sizes: list[int] = []
    run = confined.run

    def watched(*arguments: Any, **named: Any) -> confined.Result:
        result = run(*arguments, **named)
        sizes.append(len(result.data))
        return result

    monkeypatch.setattr(confined, "run", watched)
    found, (warned,) = layers(work, path, seconds=200, size=(1920, 1080), width=1)
    assert warned == f"{NAME}: the animation is so long that only one in 2 of its frames is shown"
    assert max(sizes) <= picture_reading.MAX_CALL_BYTES
    assert sum(sizes) <= picture_reading.MAX_ANIMATION_BYTES
    assert [ms for _, ms in found] == [40] * 50


@pytest.mark.slow
def test_an_animation_of_ten_thousand_small_frames_is_read(work: Work, tmp_path: Path) -> None:
    path = animated(tmp_path / "a.webp", noise(100, (4, 4)) * 100, 20, lossless=True, method=0)
    found, warned = layers(work, path, seconds=900, width=0.0125)
    assert not warned and sum(ms for _, ms in found) == 200_000


def png(width: int, height: int) -> bytes:
    """A PNG of one colour and any size, in a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    deflate = zlib.compressobj(9)
    row = bytes(1) + b"\xff\0\0\x80" * width
    body = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_a_picture_of_100_megapixels_is_shrunk(work: Work, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(10_000, 10_000))
    layer = still(work, tmp_path / "a.png", width=0.5)
    assert layer.size[0] in {160, 162}
    assert shade(layer) == pytest.approx(16 + (luma(RED) - 16) * 128 / 255, abs=1)


def test_larger_pictures_and_animations_are_refused_before_they_are_decoded(work: Work, tmp_path: Path) -> None:
    head = png(1, 1)
    bomb = head.replace(struct.pack(">II", 1, 1), struct.pack(">II", 100_000, 100_000))
    bomb = bomb.replace(head[29:33], struct.pack(">I", zlib.crc32(bomb[12:29])))
    (tmp_path / "a.png").write_bytes(bomb)
    with pytest.raises(AssetTooLarge, match=r"^overlays\[0\]\.url_image: .*100 megapixels"):
        layers(work, tmp_path / "a.png")
    path = animated(tmp_path / "a.gif", noise(2))
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", 8000, 8000)
    path.write_bytes(content)
    with pytest.raises(AssetTooLarge, match="16 megapixels"):
        layers(work, path)


def test_a_damaged_animation_is_shown_as_far_as_it_goes(work: Work, tmp_path: Path) -> None:
    path = animated(tmp_path / "a.webp", noise(20, (64, 64)), lossless=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        found, warned = layers(work, path)
    except AssetInvalid as error:
        assert error.message.startswith(NAME)
    else:
        assert 0 < len(found) < 20 and "damaged" in warned[0]


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"GIF89a" + bytes(500), b"hello", b"RIFF\x10\0\0\0WEBPVP8X"])
def test_what_is_no_picture_is_refused_by_path(content: bytes, work: Work, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(AssetInvalid, match=r"^overlays\[0\]\.url_image: "):
        layers(work, tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [
        {"size": [0, 5]},
        {"size": [10**6, 10**6]},
        {"size": None},
        {"shown_ms": []},
        {"shown_ms": [-1]},
        {"shown_ms": [0, 0]},
        {"next": 0},
        {"next": "1"},
        {"warnings": "x"},
    ],
    ids=str,
)
def test_a_child_that_was_taken_over_is_not_believed(
    change: dict[str, Any], work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 4))
    facts = {"size": [4, 4], "shown_ms": [0], "warnings": [], "next": None, **change}
    monkeypatch.setattr(confined, "run", lambda *_, **__: confined.Result(facts, bytes(64)))
    with pytest.raises(AssetInvalid, match="damaged"):
        layers(work, tmp_path / "a.png")


def test_a_stop_ends_it(work: Work, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 4))
    work.stop.set(Cancelled())
    with pytest.raises(Cancelled):
        layers(work, tmp_path / "a.png")
