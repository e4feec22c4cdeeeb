"""Colours that a file describes without an ICC profile are shown as browsers show them, and HDR as in videos."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from ffmpeg_ops.engine.stills import image as module

Color = tuple[int, int, int]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHITE_D65, OF_SRGB = (0.3127, 0.329), (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3, BT2020 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), (0.708, 0.292, 0.17, 0.797, 0.131, 0.046)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def chrm(*points: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in (*WHITE_D65, *points))))


def cicp(*codes: int) -> bytes:
    return chunk(b"cICP", bytes(codes))


ICC, SRGB_CHUNK = chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB)), chunk(b"sRGB", b"\0")


def png(color: Color, extra: bytes, mode: str = "RGB") -> bytes:
    """A PNG of one colour with more chunks before its pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).convert(mode).save(file, "PNG")
    content = file.getvalue()
    at = content.index(b"IHDR") + 21
    return content[:at] + extra + content[at:]


def avif(color: Color, primaries: int, transfer: int, **options: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "AVIF", quality=100, subsampling="4:4:4", **options)
    before, colr, after = file.getvalue().partition(b"colrnclx")
    return before + colr + struct.pack(">HH", primaries, transfer) + after[4:] if colr else before


def shown(content: bytes, path: Path) -> Color:
    path.write_bytes(content)
    loaded = module.load(path, "url_image", lambda size: 1.0)
    assert not loaded.warnings
    red, green, blue = np.asarray(loaded.picture)[4, 4].tolist()
    return red, green, blue


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "asset-url_image"


MUTED, MUTED_P3 = (200, 80, 80), (216, 69, 75)


@pytest.mark.parametrize(
    ("color", "extra", "wanted"),
    [
        ((128,) * 3, gama(1.0), (188,) * 3),
        ((128,) * 3, gama(0.22727), (62,) * 3),
        ((250,) * 3, gama(0.02), (164,) * 3),
        ((128, 100, 60), gama(0.45455), (128, 100, 60)),
        ((128, 100, 60), gama(0.45455) + chrm(*OF_SRGB), (128, 100, 60)),
        ((128,) * 3, SRGB_CHUNK + gama(1.0), (128,) * 3),
        ((128,) * 3, gama(1.0) + ICC, (128,) * 3),
        (MUTED, chrm(*P3), MUTED_P3),
        (MUTED, cicp(12, 13, 0, 1), MUTED_P3),
        (MUTED, cicp(12, 13, 0, 1) + ICC, MUTED_P3),
        (MUTED, cicp(1, 13, 0, 1) + gama(1.0), MUTED),
        ((255, 255, 255), cicp(9, 13, 0, 1), (255, 255, 255)),
        ((128,) * 3, cicp(1, 8, 0, 1), (188,) * 3),
        *[(MUTED, wrong, MUTED) for wrong in (gama(0), chrm(*[0.0] * 6), chrm(*[0.3] * 6), cicp(9), cicp(0, 99, 9, 9))],
    ],
)
def test_a_png_is_shown_in_the_colours_that_its_chunks_describe(
    color: Color, extra: bytes, wanted: Color, path: Path
) -> None:
    assert shown(png(color, extra), path) == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA"])
def test_gamma_holds_for_every_kind_of_png(mode: str, path: Path) -> None:
    assert shown(png((153,) * 3, gama(1.0), mode), path) == pytest.approx((203,) * 3, abs=2)


@pytest.mark.parametrize(("transfer", "white"), [(16, 148), (18, 191)])
def test_hdr_keeps_its_blacks_and_what_is_brighter_than_white(transfer: int, white: int, path: Path) -> None:
    """Diffuse white of 203 cd/m² becomes nearly white, as in HDR videos; there, it would be grey if taken for SDR."""
    for made in (lambda code: png((code,) * 3, cicp(9, transfer, 0, 1)), lambda code: avif((code,) * 3, 9, transfer)):
        black, dark, paper, light = (shown(made(code), path)[1] for code in (0, white // 3, white, white + 25))
        assert black == 0 and dark < white // 3 + 8 and 215 < paper < 235 and paper + 8 < light <= 255


def test_an_avif_is_shown_in_the_colours_of_its_nclx(path: Path) -> None:
    assert shown(avif(MUTED, 12, 13), path) == pytest.approx(MUTED_P3, abs=4)
    assert shown(avif(MUTED, 1, 13), path) == pytest.approx(MUTED, abs=3)
    assert shown(avif(MUTED, 2, 2), path) == pytest.approx(MUTED, abs=3)
    assert shown(avif(MUTED, 12, 13, icc_profile=SRGB), path) == pytest.approx(MUTED, abs=3)


@settings(max_examples=40)
@given(
    extra=st.lists(st.builds(chunk, st.sampled_from([b"gAMA", b"cHRM", b"cICP"]), st.binary(max_size=40)), max_size=3)
)
def test_any_description_is_shown_somehow(tmp_path_factory: pytest.TempPathFactory, extra: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("png") / "asset"
    path.write_bytes(png(MUTED, b"".join(extra)))
    module.load(path, "url_image", lambda size: 1.0)
