"""Decodes images that are cut off or damaged as far as they go, as browsers do, and measures how far that is."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from PIL import Image, ImageFile

_TAILS = (bytes(1 << 20), random.Random(0).randbytes(1 << 20))
_INKS = (0, 128)
_RIFF_HEADER, _CHUNK_HEADER = 12, 8
_WEBP_PICTURES = frozenset({b"VP8 ", b"VP8L"})


def decode(content: bytes, formats: tuple[str, ...], max_pixels: int) -> tuple[Image.Image, float]:
    """The image as far as it goes, and the share of its lines that are there.

    It is decoded twice, with something else in place of what is missing: the lines that differ are not there. Raises
    what Pillow raises when nothing can be decoded, and OSError past `max_pixels`, before decoding.
    """
    with _tolerant():
        if content.startswith(b"RIFF"):
            tries = (_opened(_extended(content, tail), formats, max_pixels) for tail in _TAILS)
        else:
            tries = (_filled(_opened(content, formats, max_pixels), ink) for ink in _INKS)
        first, image = _checksums(next(tries)), next(tries)
        second = _checksums(image)
    there = sum(a == b for a, b in zip(first, second, strict=True))
    return image, there / image.height


@contextmanager
def _tolerant() -> Iterator[None]:
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # of the whole process, which decodes nothing else
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _opened(content: bytes, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=formats)
    if image.width * image.height > max_pixels:
        raise OSError("the image is too large")
    return image


def _filled(image: Image.Image, ink: int) -> Image.Image:
    """`image`, decoded, where pixels that are not decoded get the value `ink`."""
    if not isinstance(image, ImageFile.ImageFile):
        return image
    prepare = image.load_prepare

    def prepare_filled() -> None:
        prepare()
        bands = len(image.getbands())
        image.im.paste(ink if bands == 1 else (ink,) * bands, (0, 0, *image.size))

    image.load_prepare = prepare_filled  # type: ignore[method-assign]
    image.load()
    del image.load_prepare  # it refers to the image, which would stay in memory
    return image


def _checksums(image: Image.Image) -> list[int]:
    """One for each line: a second copy of all pixels would take too much memory."""
    image.load()
    edges = pairwise(range(image.height + 1))
    return [zlib.crc32(image.crop((0, top, image.width, bottom)).tobytes()) for top, bottom in edges]


def _extended(webp: bytes, tail: bytes) -> bytes:
    """A WebP with `tail` after its picture, which is its last chunk, and with the sizes that follow from that."""
    at = _RIFF_HEADER
    while (end := at + _CHUNK_HEADER + int.from_bytes(webp[at + 4 : at + 8], "little")) < len(webp):
        at = end + end % 2
    if webp[at : at + 4] not in _WEBP_PICTURES:
        raise OSError("the WebP has no picture")
    picture = webp[at + _CHUNK_HEADER :] + tail
    chunk = webp[at : at + 4] + len(picture).to_bytes(4, "little") + picture
    content = webp[8:at] + chunk + bytes(len(picture) % 2)
    return b"RIFF" + len(content).to_bytes(4, "little") + content
