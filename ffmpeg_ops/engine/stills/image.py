"""Loads the image of a shot: within limits, upright, opaque, sRGB, and no larger than the shot needs."""

from __future__ import annotations

import io
import math
import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFilter, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from ffmpeg_ops.engine.stills import color, cut_off
from wire.errors import AssetInvalid, AssetTooLarge, JobError
from wire.sniffing import sniff_file

MAX_PIXELS = 100_000_000
MAX_COPIED_PIXELS = 50_000_000  # of formats of which Pillow holds several copies while it decodes them
MAX_SCANS = 100
MIN_COMPLETE = 0.98  # the share of its lines that an image which is cut off must still have
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")
_COPIED = frozenset({"WEBP", "AVIF"})
_TOLERANT_FORMATS = tuple(name for name in _FORMATS if name != "JPEG")  # which has limits of its own
_NAMES = frozenset(name.lower() for name in _FORMATS)  # as sniffing has them
# Larger JPEGs are decoded at a half, a quarter or an eighth of their size where that is enough, to save memory.
_DRAFT_PIXELS = 30_000_000
_STRIP_PIXELS = 5_000_000
# A marker in a JPEG. In coded data, FF is followed by a zero or a restart marker instead.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_BARE_MARKERS = frozenset({0x01, 0xD8})  # no length follows
_END = bytes((0xFF, _END_OF_IMAGE))
_NOISE = random.Random(0).randbytes(4096).replace(b"\xff", b"")  # without markers
_SWAPPED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_SMALLEST = 64  # pixels of the shorter side of a canvas
_BLUR = 0.03  # radius as a share of the canvas's height

Factor = Callable[[tuple[int, int]], float]


@dataclass(frozen=True)
class Loaded:
    """An image that is ready for the camera."""

    #: The pixels as RGB, upright.
    picture: Image.Image
    #: Width and height of the upright image before it was shrunk.
    size: tuple[int, int]
    #: What is wrong with the file, in plain words.
    warnings: tuple[str, ...] = ()


def load(path: Path, name: str, factor: Factor, *, alpha: bool = False) -> Loaded:
    """Load the image of param `name`, as RGBA where `alpha` is kept.

    For its upright size, `factor` returns how many times smaller the image may be; it is shrunk with Lanczos before
    anything that needs a copy. A damaged one is loaded when at least MIN_COMPLETE of its lines are there.
    Raises AssetTooLarge past MAX_PIXELS or MAX_COPIED_PIXELS, and AssetInvalid past MAX_SCANS, both before decoding.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as image:
            _require_size(image, name)
            if isinstance(image, JpegImageFile):
                return _load_jpeg(path.read_bytes(), image, name, factor)
            with path.open("rb") as file:
                _describe(image, file)
            return _loaded(image, factor, alpha=alpha)
    except Image.DecompressionBombError as error:
        raise AssetTooLarge(f"{name}: the image has more than {MAX_PIXELS // 1_000_000} megapixels.") from error
    except MemoryError as error:
        raise AssetTooLarge(f"{name}: the image needs more memory than the worker allows.") from error
    except JobError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of errors on damaged files
        found = sniff_file(path)
        if found.name in _NAMES:
            return _load_damaged(path.read_bytes(), name, factor, error, alpha=alpha)
        raise AssetInvalid(f"{name}: the file is {found.label}, not a readable image.") from error


def check(path: Path, name: str) -> None:
    """Read the header of the image of param `name`. Raises AssetInvalid for another file, and AssetTooLarge.

    A damaged image passes: only decoding it shows how much of it can be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as image:
            _require_size(image, name)
    except Image.DecompressionBombError as error:
        raise AssetTooLarge(f"{name}: the image has more than {MAX_PIXELS // 1_000_000} megapixels.") from error
    except JobError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of errors on damaged files
        found = sniff_file(path)
        if found.name not in _NAMES:
            raise AssetInvalid(f"{name}: the file is {found.label}, not a readable image.") from error


def _require_size(image: Image.Image, name: str) -> None:
    limit = MAX_COPIED_PIXELS if image.format in _COPIED else MAX_PIXELS
    if image.width * image.height > limit:
        raise AssetTooLarge(f"{name}: the image has more than {limit // 1_000_000} megapixels.")


def _load_jpeg(content: bytes, image: Image.Image, name: str, factor: Factor) -> Loaded:
    scans, ended = _scans(content)
    if scans > MAX_SCANS:
        raise AssetInvalid(f"{name}: the image is stored in more than {MAX_SCANS} scans.")
    if ended:
        return _loaded(image, factor)
    content = content.rstrip(b"\xff")  # half a marker
    share = _complete(content)
    if share < MIN_COMPLETE:
        raise AssetInvalid(f"{name}: the image is cut off: {share:.1%} of its lines can be read.")
    with Image.open(io.BytesIO(content + _END), formats=("JPEG",)) as image:
        return _loaded(image, factor, f"{name}: the image is cut off; {share:.1%} of its lines could be read")


def _load_damaged(content: bytes, name: str, factor: Factor, why: Exception, *, alpha: bool) -> Loaded:
    try:
        image, share = cut_off.decode(content, _TOLERANT_FORMATS, MAX_PIXELS)
    except Exception as error:
        message = f"{name}: the image is cut off or damaged, or of a kind that is not supported."
        raise AssetInvalid(message, detail=repr(why)) from error
    if share < MIN_COMPLETE:
        raise AssetInvalid(f"{name}: the image is cut off or damaged: {share:.1%} of its lines can be read.")
    _describe(image, io.BytesIO(content))
    warning = f"{name}: the image is cut off or damaged; {share:.1%} of its lines could be read"
    return _loaded(image, factor, warning, alpha=alpha)


def _describe(image: Image.Image, file: BinaryIO) -> None:
    """Give `image` the profile that stands for the colours which its file describes without one."""
    if profile := color.described(image, file):
        image.info["icc_profile"] = profile


def _loaded(image: Image.Image, factor: Factor, *found: str, alpha: bool = False) -> Loaded:
    exif = _exif(image)
    turned = exif.get(_ORIENTATION) in _SWAPPED
    size = (image.height, image.width) if turned else image.size
    return Loaded(_prepared(image, exif, factor(size), alpha=alpha), size, found)


def _exif(image: Image.Image) -> Image.Exif:
    """The tags of EXIF. Pillow adds the orientation of XMP, which browsers do not obey."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    if image.format == "PNG":
        image.load()  # its tags may follow the pixels, whose damage must not be mistaken for theirs
    exif = Image.Exif()
    try:
        if not (content := image.info.get("exif")):
            return image.getexif()
        exif.load(content)
        exif.get(_ORIENTATION)
    except Exception:  # Pillow raises many kinds; pixels do not need damaged tags
        return Image.Exif()
    return exif


def _complete(content: bytes) -> float:
    """The share of the lines of a JPEG without its end that are there.

    Decoders fill up what is missing, so those lines are there that do not depend on what follows the file.
    """
    filled, other = (_gray(content + tail) for tail in (_END, _NOISE + _END))
    differ = (filled != other).any(axis=1)
    return float(differ.argmax() / len(differ)) if differ.any() else 1.0


def _gray(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        image.draft("L", image.size)
        return np.asarray(image.convert("L"))


def canvas_size(image: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of the given shape that holds a whole image."""
    scale = max(image[0] / shape[0], image[1] / shape[1])
    return max(image[0], round(shape[0] * scale)), max(image[1], round(shape[1] * scale))


def contained(image: Image.Image, shape: tuple[int, int], background: str) -> Image.Image:
    """The whole `image` in the middle of a canvas of the given shape, on a blurred copy of itself or a colour."""
    times = math.ceil(_SMALLEST / min(canvas_size(image.size, shape)))
    if times > 1:  # in whole pixels, a tiny image has no middle of such a shape
        image = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    size = canvas_size(image.size, shape)
    canvas = _blurred(image, size) if background == "blur" else Image.new("RGB", size, background)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _prepared(image: Image.Image, exif: Image.Exif, factor: float, *, alpha: bool) -> Image.Image:
    profile, whole = image.info.get("icc_profile"), image.width
    if image.width * image.height > _DRAFT_PIXELS and factor > 2:
        image.draft(None, (math.ceil(image.width * 2 / factor), math.ceil(image.height * 2 / factor)))
    factor *= image.width / whole
    picture = _eight_bit(image, alpha=alpha)
    if factor > 1:
        size = (math.ceil(picture.width / factor), math.ceil(picture.height / factor))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture = _in_srgb(picture, profile)
    picture.info.clear()
    picture.getexif().update(exif)
    return ImageOps.exif_transpose(picture)


def _scans(content: bytes) -> tuple[int, bool]:
    """How many scans a JPEG has, and whether it has an end.

    Ten scans are usual; thousands fit into a small file and take hours to decode.
    """
    count = at = 0
    while found := _MARKER.search(content, at):
        marker = found[1][0]
        if marker == _END_OF_IMAGE:
            return count, True
        count += marker == _START_OF_SCAN
        length = 0 if marker in _BARE_MARKERS else int.from_bytes(content[found.end() : found.end() + 2], "big")
        at = found.end() + length
    return count, False


def _eight_bit(image: Image.Image, *, alpha: bool) -> Image.Image:
    """The image as L, RGB or CMYK of 8 bits, or as RGBA if it is not opaque and `alpha` is kept."""
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(image)
    if image.format == "BMP" and image.mode == "RGBA" and image.getextrema()[-1] == (0, 0):
        return image.convert("RGB")  # programs leave the fourth byte empty; no viewer shows nothing
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA") if alpha else _on_white(image)
    return image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Convert grey of 16 bits, or of any other depth, to 8 bits."""
    highest = max(float(np.asarray(strip).max()) for _, strip in _strips(image))
    full = 1.0 if highest <= 1 else 255.0 if highest <= 255 else 65535.0
    grey = Image.new("L", image.size)
    for top, strip in _strips(image):
        values = np.asarray(strip)
        shorter = values >> 8 if values.dtype == np.uint16 else np.clip(values / full * 255, 0, 255)
        grey.paste(Image.fromarray(shorter.astype(np.uint8)), (0, top))
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    """Flatten alpha onto white."""
    opaque = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        white = Image.new("RGBA", strip.size, "white")
        opaque.paste(Image.alpha_composite(white, strip.convert("RGBA")).convert("RGB"), (0, top))
    return opaque


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in strips with their tops: copies of a whole large image would not fit in a job's memory."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image as RGB, or as RGBA if it is that."""
    if image.mode == "RGBA":
        opaque = _in_srgb(image.convert("RGB"), profile)
        opaque.putalpha(image.getchannel("A"))
        return opaque
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "L" and source.profile.xcolor_space == "RGB ":
                image = image.convert("RGB")
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # the profile does not match the image: use the values as they are
    return image.convert("RGB")


def _blurred(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A blurred copy that covers `size`. It is made from a small copy, because a blur loses the details anyway."""
    shrink = max(1.0, max(size) / 256)
    small = (max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink)))
    covering = ImageOps.fit(image, small, Image.Resampling.BILINEAR)
    return covering.filter(ImageFilter.GaussianBlur(small[1] * _BLUR)).resize(size, Image.Resampling.BICUBIC)
