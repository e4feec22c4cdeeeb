"""Loading images: every kind that users send, and what is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from ffmpeg_ops.engine.stills import image as module
from ffmpeg_ops.engine.stills.image import contained
from wire.errors import AssetInvalid, AssetTooLarge

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112
LAB, SRGB = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("LAB", "sRGB"))


def load(path: Path, name: str, factor: float = 1.0) -> Image.Image:
    """The image, made `factor` times smaller."""
    return module.load(path, name, lambda size: factor).picture


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "asset-url_image"


def saved(image: Image.Image, path: Path, form: str, **options: Any) -> Image.Image:
    image.save(path, format=form, **options)
    return load(path, "url_image")


def halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red at the left, blue at the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def near(got: object, wanted: tuple[int, ...], by: int = 4) -> bool:
    return bool(np.all(np.abs(np.asarray(got, int) - np.asarray(wanted)) <= by))


def half(mode: str, left: Any, right: Any) -> Image.Image:
    """An image of 8x8 pixels of two values."""
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


def palette() -> Image.Image:
    image = half("P", 0, 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image


# --- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"])
def test_usual_images_are_opened_as_rgb(form: str, path: Path) -> None:
    image = saved(Image.new("RGB", (20, 10), RED), path, form)
    assert (image.mode, image.size) == ("RGB", (20, 10)) and near(image.getpixel((5, 5)), RED)


@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),
    [
        *[(1, (40, 20), (0, 0)), (2, (40, 20), (39, 0)), (3, (40, 20), (39, 0)), (4, (40, 20), (0, 0))],
        *[(5, (20, 40), (0, 0)), (6, (20, 40), (0, 0)), (7, (20, 40), (0, 39)), (8, (20, 40), (0, 39))],
    ],
)
def test_the_exif_orientation_is_applied(
    orientation: int, size: tuple[int, int], red_at: tuple[int, int], path: Path
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = saved(halves(), path, "JPEG", exif=exif, quality=95, subsampling=0)
    assert image.size == size and near(image.getpixel(red_at), RED)
    assert near(image.getpixel((size[0] - 1 - red_at[0], size[1] - 1 - red_at[1])), BLUE)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("with_exif", [False, True])
def test_the_orientation_of_xmp_is_not_applied(form: str, with_exif: bool, path: Path) -> None:
    """As browsers do."""
    exif = Image.Exif()
    exif[0x010E] = "a description"
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    image = saved(halves(), path, form, xmp=xmp, **({"exif": exif} if with_exif else {}))
    assert near(image.getpixel((3, 10)), RED, 12) and near(image.getpixel((36, 10)), BLUE, 12)


TURNED = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0"


@pytest.mark.parametrize("tags", [TURNED[:6], TURNED[:3], b"", b"MM\0*\xff\xff\xff\xff", b"junk" * 9, TURNED[:12]])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_tags_of_exif_do_no_harm(tags: bytes, form: str, path: Path) -> None:
    assert near(saved(halves(), path, form, exif=b"Exif\0\0" + TURNED).getpixel((3, 10)), BLUE, 20)
    assert near(saved(halves(), path, form, exif=b"Exif\0\0" + tags).getpixel((3, 10)), RED, 20)


def test_damaged_pixels_are_not_taken_for_damaged_tags(path: Path) -> None:
    saved(halves(), path, "PNG")
    content = path.read_bytes()
    at, end = content.index(b"IDAT") + 4, content.index(b"IEND") - 8
    raw = content[at + 2 : end - 4] + bytes(6)  # without the head of zlib, as Xcode writes it
    path.write_bytes(content[:at] + raw + struct.pack(">I", zlib.crc32(b"IDAT" + raw)) + content[end + 4 :])
    with pytest.raises(AssetInvalid, match="cut off or damaged"):
        load(path, "url_image")


@pytest.mark.parametrize(("alpha", "left"), [(0, RED), (128, (255, 127, 127))])
def test_a_bmp_whose_alpha_is_empty_is_opaque(alpha: int, left: tuple[int, ...], path: Path) -> None:
    """As Windows and Photoshop write and read it."""
    pixels = (bytes((0, 0, 255, alpha)) * 8 + bytes((255, 0, 0, alpha)) * 8) * 8
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 56, 16, 8, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    path.write_bytes(b"BM" + struct.pack("<IHHI", 70 + len(pixels), 0, 0, 70) + head + pixels)
    assert near(load(path, "url_image").getpixel((3, 3)), left)


@pytest.mark.parametrize(
    ("image", "form", "options", "left", "right"),
    [
        (half("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)), "PNG", {}, WHITE, RED),
        (half("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)), "WEBP", {"lossless": True}, WHITE, RED),
        (half("RGBA", (255, 0, 0, 128), (255, 0, 0, 255)), "PNG", {}, (255, 127, 127), RED),
        (palette(), "PNG", {"transparency": 0}, WHITE, RED),
        (half("L", 128, 255), "PNG", {}, (128,) * 3, WHITE),
        (half("1", 1, 0), "PNG", {}, WHITE, (0, 0, 0)),
        (half("LA", (128, 255), (0, 0)), "PNG", {}, (128,) * 3, WHITE),
        (half("CMYK", (0, 255, 255, 0), (0, 255, 255, 0)), "JPEG", {"quality": 100}, (254, 0, 0), (254, 0, 0)),
    ],
    ids=["alpha", "webp", "half transparent", "palette", "gray", "bitmap", "gray with alpha", "cmyk"],
)
def test_transparency_becomes_white_and_every_mode_rgb(
    image: Image.Image, form: str, options: Any, left: Any, right: Any, path: Path
) -> None:
    flat = saved(image, path, form, **options)
    assert near(flat.getpixel((1, 4)), left, 8) and near(flat.getpixel((6, 4)), right, 8)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_sixteen_bits_become_eight(shape: tuple[int, ...], path: Path) -> None:
    path.write_bytes(cv2.imencode(".png", np.full(shape, 0x8000, np.uint16))[1].tobytes())
    assert near(load(path, "url_image").getpixel((3, 3)), (128, 128, 128), 1)


@pytest.mark.parametrize("form", ["GIF", "MPO"])
def test_the_first_image_of_several_is_taken(form: str, path: Path) -> None:
    """Of an animation, or of a phone's multi-picture JPEG."""
    red, blue = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    assert near(saved(red, path, form, save_all=True, append_images=[blue]).getpixel((3, 3)), RED)


# --- refusing --------------------------------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """The header of a PNG without any pixels: decoding it would fail."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + data + struct.pack(">I", zlib.crc32(data)) + b"\0\0\0\x04IDAT"


@pytest.mark.parametrize("size", [(10_001, 10_000), (15_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_pixel_bomb_is_refused_before_it_is_decoded(
    size: tuple[int, int], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(bomb(*size))
    with pytest.raises(AssetTooLarge, match=r"url_image.*100 megapixels"):
        load(path, "url_image")
    monkeypatch.setattr(module, "MAX_PIXELS", 800)
    assert saved(halves((40, 20)), path, "PNG").size == (40, 20), "the limit is exact"
    with pytest.raises(AssetTooLarge):
        saved(halves((40, 21)), path, "PNG")


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_formats_that_are_copied_may_have_fewer_pixels(form: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COPIED_PIXELS", 800)
    assert saved(halves((40, 20)), path, form).size == (40, 20)
    with pytest.raises(AssetTooLarge, match="url_image"):
        saved(halves((40, 21)), path, form)


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "RGBA", "LA"])
def test_strips_make_the_same_image_as_one_piece(mode: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.add.outer(np.arange(20), np.arange(30)) * 5
    image = Image.fromarray(rows.astype(np.uint8)).convert(mode) if mode != "I;16" else Image.fromarray(
        (rows * 257).astype(np.uint16)
    )  # fmt: skip
    image.save(path, "TIFF")
    whole = load(path, "url_image")
    monkeypatch.setattr(module, "_STRIP_PIXELS", 70)
    assert np.array_equal(np.asarray(load(path, "url_image")), np.asarray(whole))
    assert len(np.unique(np.asarray(whole))) > 40


def gradient() -> Image.Image:
    """Detail in every line, much of it black or white, in a picture of fifty rows of blocks."""
    y, x = np.mgrid[0:800, 0:80]
    wave = np.clip(np.sin(x / 9) * np.cos(y / 7) * 300 + 128, 0, 255)
    return Image.fromarray(np.dstack([wave, x % 256, y % 256]).astype(np.uint8))


@pytest.mark.parametrize("form", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("missing", [1, 2, 5, 20])
def test_a_jpeg_without_its_last_bytes_is_used_with_a_warning(missing: int, form: dict[str, Any], path: Path) -> None:
    whole = saved(gradient(), path, "JPEG", quality=90, **form)
    path.write_bytes(path.read_bytes()[:-missing])
    loaded = module.load(path, "url_image", lambda size: 1.0)
    assert len(loaded.warnings) == 1 and loaded.warnings[0].startswith("url_image: the image is cut off; ")
    there = int(800 * module.MIN_COMPLETE) - 2  # chroma is interpolated between lines
    assert near(np.asarray(loaded.picture)[:there], np.asarray(whole)[:there], 0)


@pytest.mark.parametrize("form", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.96])
def test_a_jpeg_of_which_lines_are_missing_is_refused(kept: float, form: dict[str, Any], path: Path) -> None:
    gradient().save(path, "JPEG", quality=90, **form)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(AssetInvalid, match=r"url_image: the image is (cut off: \d+\.\d% of its lines|damaged)"):
        load(path, "url_image")


@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}])
def test_a_whole_jpeg_has_no_warning_whatever_follows_it(options: dict[str, Any], path: Path) -> None:
    gradient().save(path, "JPEG", **options)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert module.load(path, "url_image", lambda size: 1.0).warnings == ()


def without_end(form: str, kept: float, path: Path, mode: str = "RGB", **options: Any) -> Image.Image:
    """The whole of an image of which `path` gets the first bytes."""
    picture = gradient().convert(mode)
    if mode == "RGBA":
        picture.putalpha(200)
    whole = saved(picture, path, form, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    return whole


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
def test_an_image_that_is_cut_off_near_its_end_is_used_with_a_warning(form: str, mode: str, path: Path) -> None:
    whole = without_end(form, 0.985, path, "L" if (form, mode) == ("GIF", "1") else mode)
    loaded = module.load(path, "url_image", lambda size: 1.0)
    assert len(loaded.warnings) == 1 and "of its lines could be read" in loaded.warnings[0]
    same = (np.asarray(loaded.picture) == np.asarray(whole)).all(axis=(1, 2)).mean()
    assert float(loaded.warnings[0].split("; ")[1].split("%")[0]) / 100 == pytest.approx(same, abs=0.002)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_that_is_cut_off_near_its_end_is_used_with_a_warning(mode: str, path: Path) -> None:
    whole = np.asarray(without_end("WEBP", 0.9999, path, mode))
    loaded = module.load(path, "url_image", lambda size: 1.0)
    assert len(loaded.warnings) == 1 and "cut off" in loaded.warnings[0]
    assert near(np.asarray(loaded.picture)[:780], whole[:780], 0)


def with_wrong_profile(path: Path) -> Image.Image:
    """A PNG whose colour profile has a wrong checksum: viewers show it, but Pillow refuses to open it."""
    whole = saved(gradient(), path, "PNG", icc_profile=SRGB)
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT") - 8
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    return whole


def test_a_png_with_a_wrong_checksum_is_used_with_a_warning(path: Path) -> None:
    whole = with_wrong_profile(path)
    loaded = module.load(path, "url_image", lambda size: 1.0)
    assert near(np.asarray(loaded.picture), np.asarray(whole), 0) and len(loaded.warnings) == 1


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_an_image_of_which_lines_are_missing_is_refused(form: str, kept: float, path: Path) -> None:
    without_end(form, kept, path)
    with pytest.raises(AssetInvalid, match="url_image: .* cut off or damaged"):
        load(path, "url_image")


def test_a_damaged_image_is_not_decoded_past_the_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_wrong_profile(path)
    monkeypatch.setattr(module, "MAX_PIXELS", 80 * 800 - 1)
    with pytest.raises(AssetInvalid, match="cut off or damaged"):
        load(path, "url_image")


def test_a_damaged_image_leaves_no_tolerance_behind(path: Path) -> None:
    without_end("PNG", 0.5, path)
    with suppress(AssetInvalid):
        load(path, "url_image")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(("orientation", "size", "red_at"), [(3, (40, 20), (39, 0)), (6, (20, 40), (0, 0))])
def test_an_avif_is_turned_upright(
    orientation: int, size: tuple[int, int], red_at: tuple[int, int], path: Path
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = saved(halves(), path, "AVIF", exif=exif, quality=90)
    assert image.size == size and near(image.getpixel(red_at), RED, 20)


def test_an_avif_with_alpha_is_flattened_onto_white(path: Path) -> None:
    flat = saved(half("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)), path, "AVIF", quality=100)
    assert near(flat.getpixel((1, 4)), WHITE, 12) and near(flat.getpixel((6, 4)), RED, 12)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!doctype html>", "an HTML page"),
        (b"", "of an unknown kind"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "an HEIC image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a text file"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI" + bytes(40), "a PNG in Xcode's own format"),
        (b"\0\0\0\x18ftypisom", "an MP4 or MOV file"),
    ],
)
def test_other_files_are_refused_as_what_they_are(content: bytes, said: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(AssetInvalid, match=f"url_image: the file is {said}"):
        load(path, "url_image")


@given(
    st.binary(max_size=80),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"BM", b"II*\0", b"MM\0*", b""]),
)
def test_any_bytes_are_loaded_or_refused(tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-image"
    path.write_bytes(head + tail)
    with suppress(AssetInvalid, AssetTooLarge):
        load(path, "url_image")


# --- preparing -------------------------------------------------------------------------------------------------------


def test_the_returned_size_is_the_upright_one_before_shrinking(path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    halves((400, 200)).save(path, "JPEG", exif=exif)
    asked: list[tuple[int, int]] = []
    loaded = module.load(path, "url_image", lambda size: asked.append(size) or 2.0)  # type: ignore[func-returns-value]
    assert (asked, loaded.size, loaded.picture.size) == ([(200, 400)], (200, 400), (100, 200))
    assert load(path, "url_image", 0.1).size == (200, 400), "images are never enlarged"


def test_a_large_jpeg_is_decoded_smaller_and_still_large_enough(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DRAFT_PIXELS", 1000)
    drafted = saved(halves((1600, 800)), path, "JPEG", quality=95)
    image = load(path, "url_image", 8.0)
    assert (drafted.size, image.size) == ((1600, 800), (200, 100))
    assert near(image.getpixel((20, 50)), RED) and near(image.getpixel((180, 50)), BLUE)


@pytest.mark.parametrize(
    "profile", [b"", b"nonsense", b"\0" * 200, LAB, SRGB], ids=["none", "text", "zeros", "lab", "srgb"]
)
def test_a_wrong_colour_profile_does_no_harm(profile: bytes, path: Path) -> None:
    image = saved(Image.new("RGB", (8, 8), RED), path, "PNG", **({"icc_profile": profile} if profile else {}))
    assert near(image.getpixel((3, 3)), RED)


@pytest.mark.parametrize("background", ["#102030", "blur"])
@pytest.mark.parametrize("size", [(100, 100), (300, 100), (50, 400), (64, 64)])
def test_a_contained_image_is_whole_and_in_the_middle(size: tuple[int, int], background: str) -> None:
    canvas = contained(Image.new("RGB", size, RED), (160, 90), background)
    assert canvas.width / canvas.height == pytest.approx(16 / 9, abs=0.02)
    assert canvas.width >= size[0] and canvas.height >= size[1]
    left, top = (canvas.width - size[0]) // 2, (canvas.height - size[1]) // 2
    part = np.asarray(canvas.crop((left, top, left + size[0], top + size[1])))
    assert near(part, RED)
    if background != "blur" and max(canvas.width - size[0], canvas.height - size[1]) > 1:
        assert near(canvas.getpixel((0, 0)), (16, 32, 48))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (7, 5), (16, 16), (1, 30)])
@pytest.mark.parametrize("shape", [(160, 90), (90, 160), (100, 100)])
def test_a_tiny_contained_image_is_in_the_middle(size: tuple[int, int], shape: tuple[int, int]) -> None:
    canvas = contained(Image.new("RGB", size, RED), shape, "#000000")
    assert canvas.width / canvas.height == pytest.approx(shape[0] / shape[1], rel=0.01)
    red = np.asarray(canvas)[..., 0] > 128
    for axis, side in ((0, canvas.width), (1, canvas.height)):
        inside = np.flatnonzero(red.any(axis=axis))
        assert abs(inside[0] - (side - 1 - inside[-1])) <= 1
        wanted = size[axis] * min(shape[0] / size[0], shape[1] / size[1]) / shape[axis]
        assert inside.size / side == pytest.approx(wanted, abs=0.02)


# --- damage and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"])
def test_a_damaged_image_is_loaded_or_refused(form: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 1_000_000)  # damaged headers ask for large images, which take long
    out = io.BytesIO()
    mode = "P" if form == "GIF" else "RGB"
    Image.effect_noise((48, 40), 80).convert(mode).save(out, form)
    whole, seeded = out.getvalue(), np.random.default_rng(7)
    refused = 0
    for trial in range(150):
        content = bytearray(whole[: seeded.integers(1, len(whole))] if trial % 3 == 0 else whole)
        for _ in range(trial % 3 * 4):
            at = seeded.integers(0, min(len(content), 200 if trial % 2 else len(content)))
            content[at] ^= 1 << seeded.integers(8)
        path.write_bytes(content)
        try:
            assert load(path, "url_image").mode == "RGB"
        except (AssetInvalid, AssetTooLarge) as error:
            assert error.message.startswith("url_image: ")
            refused += 1
    assert refused > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alpha.png", "photo.jpg"])
def test_a_hundred_megapixels_fit_in_a_gigabyte(kind: str, tmp_path: Path) -> None:
    source = tmp_path / kind
    rng = np.random.default_rng(3)
    tile = Image.fromarray(rng.integers(0, 255, (250, 250, 4 if "png" in kind else 3), np.uint8))
    image = Image.new(tile.mode, (10_000, 10_000), "red")
    for at in range(0, 10_000, 500):
        image.paste(tile, (at, at))
    image.save(source, **({"compress_level": 1} if "png" in kind else {"quality": 90}))
    image.close()
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from ffmpeg_ops.operation import OPERATIONS, Work\n"
        "op = OPERATIONS['img2vid']\n"
        "params = op.params().load({'url_image': 'http://x.test/', 'duration': 0.2})\n"
        "op.run(Work(Path(sys.argv[1])), params, {'url_image': Path(sys.argv[2])})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(source)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "output-video.mp4").stat().st_size > 0
    assert int(said.stdout.split()[-1]) < 1_000_000, "kilobytes"
