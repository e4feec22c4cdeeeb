"""`load`: every kind of image through a confined child, as it would be without one, and what becomes of hijacked ones."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ffmpeg_ops.engine import confined
from ffmpeg_ops.engine.stills import image, reading, shot
from ffmpeg_ops.engine.stills.camera import Move
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, AssetTooLarge, JobTimeout, WorkerError

FRAME, COUNT = (192, 108), 5


@pytest.fixture
def path(work: Work) -> Path:
    return work.directory / "asset-1"


def load(work: Work, path: Path, fit: str = "cover", background: str = "blur") -> shot.Shot:
    return shot.load(work, path, "url_image", Move(), FRAME, COUNT, fit, background)


def picture(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:60, 0:80]
    return Image.fromarray(np.dstack([x * 3, y * 4, x + y]).astype(np.uint8)).convert(mode)


def saved(form: str, mode: str = "RGB", **options: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        out = io.BytesIO()
        picture(mode).save(out, form, **options)
        return out.getvalue()

    return make


def several(form: str, **options: Any) -> Callable[[], bytes]:
    """An animation or a file of pages, of which the first picture counts."""

    def make() -> bytes:
        others = [picture().transpose(Image.Transpose.ROTATE_180) for _ in range(3)]
        out = io.BytesIO()
        picture().save(out, form, save_all=True, append_images=others, **options)
        return out.getvalue()

    return make


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS: Mapping[str, Callable[[], bytes]] = {
    **{form.lower(): saved(form) for form in ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")},
    "turned jpeg": saved("JPEG", exif=turned()),
    "turned avif": saved("AVIF", exif=turned()),
    "progressive jpeg": saved("JPEG", progressive=True),
    "cmyk jpeg": saved("JPEG", "CMYK", icc_profile=b"nonsense"),
    "jpeg with a profile": saved("JPEG", icc_profile=PROFILE),
    "jpeg with a text": saved("JPEG", comment="ä", xmp=b"<x:xmpmeta/>", dpi=(72, 72)),
    "png with a profile": saved("PNG", "RGBA", icc_profile=PROFILE),
    "png of 16 bits": saved("PNG", "I;16"),
    "png with a palette": saved("PNG", "P", transparency=3),
    "gray png": saved("PNG", "LA"),
    "bitmap": saved("PNG", "1"),
    "lossless webp": saved("WEBP", "RGBA", lossless=True),
    **{f"tiff by {way}": saved("TIFF", compression=way) for way in ("jpeg", "tiff_lzw", "tiff_deflate", "packbits")},
    "float tiff": saved("TIFF", "F"),
    "fax": saved("TIFF", "1", compression="group4"),
    "lab": saved("TIFF", "LAB"),
    **{f"several in a {form.lower()}": several(form) for form in ("GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF")},
    "jpeg without an end": lambda: saved("JPEG", quality=90)()[:-5],
}


@pytest.mark.parametrize("fit", ["cover", "contain"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_without_a_child(kind: str, fit: str, work: Work, path: Path) -> None:
    """Its libraries import more of themselves when they meet a format, which a confined child could not."""
    path.write_bytes(KINDS[kind]())
    loaded = load(work, path, fit)
    here = image.load(path, "url_image", lambda size: 1.0)
    wanted = image.contained(here.picture, FRAME, "blur") if fit == "contain" else here.picture
    assert np.array_equal(loaded.pixels, np.asarray(wanted))
    assert loaded.warnings == here.warnings
    whole = wanted.size if fit == "contain" else here.size
    assert loaded.boxes == Move().boxes(whole, FRAME, COUNT)


def test_a_large_image_is_made_smaller_and_its_boxes_with_it(work: Work, path: Path) -> None:
    Image.linear_gradient("L").resize((2000, 1500)).save(path, "JPEG")
    loaded = load(work, path)
    height, width, _ = loaded.pixels.shape
    assert width < 600 and width / height == pytest.approx(4 / 3, abs=0.02)
    assert loaded.boxes[0].width == pytest.approx(width)
    assert loaded.boxes[-1].width == pytest.approx(width / 1.324, rel=0.01)


@pytest.mark.parametrize("background", ["#102030", "blur"])
def test_a_contained_image_stands_on_its_background(background: str, work: Work, path: Path) -> None:
    Image.new("RGB", (10, 60), "red").save(path, "PNG")
    loaded = load(work, path, "contain", background)
    assert loaded.pixels.shape[1] / loaded.pixels.shape[0] == pytest.approx(16 / 9, abs=0.05)
    assert tuple(loaded.pixels[0, 0]) == ((16, 32, 48) if background != "blur" else (255, 0, 0))


# --- refusing --------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + data + struct.pack(">I", zlib.crc32(data)) + b"\0\0\0\x04IDAT"


def in_pieces(scans: int) -> bytes:
    """A phone's multi-picture JPEG whose first picture is stored in many scans."""
    content = several("MPO", progressive=True)()
    scan = content.index(b"\xff\xda")
    end = content.index(b"\xff", scan + 14)
    return content[:end] + content[scan:end] * scans + content[end:]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", AssetInvalid, "of an unknown kind"),
        (b"<!doctype html>", AssetInvalid, "an HTML page"),
        (png(20_000, 20_000), AssetTooLarge, "100 megapixels"),
        (png(64, 64), AssetInvalid, "damaged"),
        (in_pieces(101), AssetInvalid, "scans"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(
    content: bytes, error: type[Exception], message: str, work: Work, path: Path
) -> None:
    path.write_bytes(content)
    with pytest.raises(error, match=f"^url_image: .*{message}"):
        load(work, path)


def test_an_image_that_needs_too_much_memory_is_too_large(
    work: Work, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shot, "MEMORY_BYTES", 150_000_000)
    Image.new("RGB", (9000, 9000)).save(path, "PNG", compress_level=1)
    with pytest.raises(AssetTooLarge, match="url_image: .*memory"):
        load(work, path)


def test_an_image_that_takes_too_long_is_refused(work: Work, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path)  # it never begins
    monkeypatch.setattr(shot, "TIMEOUT_S", 0.3)
    with pytest.raises(AssetInvalid, match="url_image: the image takes too long"):
        load(work, path)


def test_a_job_that_has_no_time_left_has_reached_its_limit(work: Work, path: Path) -> None:
    os.mkfifo(path)
    work.stop.set(JobTimeout())
    with pytest.raises(JobTimeout):
        load(work, path)


# --- replies of a hijacked child -------------------------------------------------------------------------------------

GOOD: Mapping[str, Any] = {"whole": [80, 60], "size": [80, 60], "warnings": []}


@pytest.mark.parametrize(
    "change",
    [
        {"size": [60, 79]},
        {"size": [80, 61]},
        {"size": [-80, -60]},
        {"size": [4800, 1]},
        {"size": [80.0, 60]},
        {"size": [True, 60]},
        {"size": [80]},
        {"size": "80x60"},
        {"size": None},
        {"whole": [0, 60]},
        {"whole": [10**7, 60]},
        {"whole": {"0": 80}},
        {"warnings": None},
        {"warnings": "text"},
        {"warnings": [1]},
    ],
)
def test_facts_that_make_no_sense_are_refused(
    change: dict[str, Any], work: Work, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confined, "run", lambda *_, **__: confined.Result({**GOOD, **change}, bytes(80 * 60 * 3)))
    if change == {"size": [4800, 1]}:
        assert load(work, path).pixels.shape == (1, 4800, 3), "another shape of as many pixels is only wrong"
        return
    with pytest.raises(AssetInvalid):
        load(work, path)


def test_warnings_are_limited(work: Work, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {**GOOD, "warnings": ["x" * 10_000] * 50}
    monkeypatch.setattr(confined, "run", lambda *_, **__: confined.Result(facts, bytes(80 * 60 * 3)))
    assert load(work, path).warnings == ("x" * 500,) * 10


@pytest.mark.parametrize(("error", "wanted"), [(confined.Crashed(), AssetInvalid), (WorkerError(), WorkerError)])
def test_a_crash_is_the_image_s_fault(
    error: Exception, wanted: type[Exception], work: Work, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> confined.Result:
        raise error

    monkeypatch.setattr(confined, "run", crash)
    with pytest.raises(wanted):
        load(work, path)


def test_pixels_are_sent_in_strips_of_any_height() -> None:
    whole = Image.effect_noise((7, 1300), 90).convert("RGB")
    assert b"".join(reading._strips(whole)) == whole.tobytes()
