"""Identifies files by their first bytes: names and MIME types are only claims.

The gateway checks whether an upload is media, the worker whether an output is of its declared type, and error messages
say what a file is.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from wire.media_types import MediaType

# How much of a file is examined. Subtitles may begin with a long section of styles.
HEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Content:
    """A kind of file content."""

    #: Name of the format, which a MediaType refers to as its `content`.
    name: str
    #: For error messages, after "the file is": `a PNG image`.
    label: str
    #: Whether operations may read it: video, sound, a picture, subtitles or a font.
    is_media: bool = True
    #: Whether it is any kind of text.
    is_text: bool = False


MATROSKA = Content("matroska", "a Matroska or WebM file")
OGG = Content("ogg", "an Ogg file")
MP4 = Content("mp4", "an MP4 or MOV file")
AVI = Content("avi", "an AVI video")
FLV = Content("flv", "an FLV video")
HTML = Content("html", "an HTML page", is_media=False, is_text=True)
_HEIC = Content("heic", "an HEIC image")
_AVIF = Content("avif", "an AVIF image")
_MP3 = Content("mp3", "MP3 audio")
_AAC = Content("aac", "AAC audio")
MPEG = Content("mpeg", "an MPEG video")
TRANSPORT = Content("mpegts", "an MPEG transport stream")
_TIFF = Content("tiff", "a TIFF image")
_GIF = Content("gif", "a GIF image")
_BMP = Content("bmp", "a BMP image")
_H26X = Content("h26x", "a raw H.264 or HEVC stream")
_AIFF = Content("aiff", "AIFF audio")
FONT = Content("font", "a font")
_SUBTITLES = Content("subtitles", "a subtitle file", is_text=True)
_SVG = Content("svg", "an SVG image", is_media=False, is_text=True)
_JSON = Content("json", "a JSON document", is_media=False, is_text=True)
_TEXT = Content("text", "a text file", is_media=False, is_text=True)
_RIFF = Content("riff", "a RIFF file", is_media=False)
UNKNOWN = Content("unknown", "of an unknown kind", is_media=False)

_SIGNATURES: tuple[tuple[bytes, Content], ...] = (
    (b"\xff\xd8\xff", Content("jpeg", "a JPEG image")),
    (b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI", Content("cgbi", "a PNG in Xcode's own format", is_media=False)),
    (b"\x89PNG\r\n\x1a\n", Content("png", "a PNG image")),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
    (b"%PDF", Content("pdf", "a PDF document", is_media=False)),
    (b"PK\x03\x04", Content("zip", "a ZIP archive", is_media=False)),
    (b"\x1f\x8b", Content("gzip", "a gzip archive", is_media=False)),
    (b"#EXTM3U", Content("playlist", "a playlist", is_media=False, is_text=True)),
    (b"ID3", _MP3),
    (b"fLaC", Content("flac", "FLAC audio")),
    (b"OggS", OGG),
    (b"\x1aE\xdf\xa3", MATROSKA),
    (b"FLV\x01", FLV),
    (b"0&\xb2u\x8ef\xcf\x11", Content("asf", "a Windows Media file")),
    (b"DKIF", Content("ivf", "an IVF video")),
    (b"nut/multimedia container\0", Content("nut", "a NUT file")),
    (b"\x06\x0e+4\x02\x05\x01\x01", Content("mxf", "an MXF video")),
    (b"\x1f\x07\0", Content("dv", "a DV video")),
    (b"\0\0\x01\xba", MPEG),  # program stream
    (b"\0\0\x01\xb3", MPEG),
    (b"\0\0\0\x01", _H26X),
    (b"\0\0\x01\x09", _H26X),
    (b"\0\0\x01\x67", _H26X),
    (b"\0\0\x01\x40", _H26X),
    (b"\0\1\0\0\0", FONT),  # TrueType, which has fewer than 256 tables
    (b"true\0", FONT),
    (b"OTTO\0", FONT),
    (b"ttcf\0", FONT),
    (b"wOFF", Content("woff", "a WOFF web font", is_media=False)),
    (b"wOF2", Content("woff2", "a WOFF2 web font", is_media=False)),
    (b"caff\0\x01", Content("caf", "CAF audio")),
    (b"#!AMR", Content("amr", "AMR audio")),
    (b"TTA1", Content("tta", "TTA audio")),
    (b"wvpk", Content("wavpack", "WavPack audio")),
    (b"riff.\x91\xcf\x11", Content("w64", "WAV audio")),
    (b"\x0bw", Content("ac3", "AC-3 audio")),
)
_IN_RIFF = {
    b"WEBP": Content("webp", "a WebP image"),
    b"WAVE": Content("wav", "WAV audio"),
    b"AVI ": AVI,
    b"AIFF": _AIFF,
    b"AIFC": _AIFF,
}
_SMALL_BOXES = frozenset({b"ftyp", b"styp", b"sidx", b"wide", b"free", b"skip", b"pnot"})
_BOXES = frozenset({b"moov", b"moof", b"mdat"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_HTML_CHARACTERS = 512  # a page's first tag comes early
_HTML = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype\s+html|html|head|body|title|meta|script|style|iframe)\b",
    re.IGNORECASE | re.DOTALL,
)
_CUE = re.compile(
    r"^[ \t]*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}[ \t]*-->[ \t]*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}", re.MULTILINE
)
_ASS = re.compile(r"\[Script Info\]|Dialogue:\s", re.IGNORECASE)
_NO_TEXT = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\ufffd]")
_BEGINS_JSON = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*(?:[\"\[\]{\d-]|true|false|null))")


def sniff(head: bytes) -> Content:
    """Identify a file by `head`, its first HEAD_BYTES or all of it."""
    bare = head.removeprefix(codecs.BOM_UTF8)
    signed = next((content for signature, content in _SIGNATURES if bare.startswith(signature)), None)
    # then formats without a signature
    return _container(head) or signed or _frames(head) or _transport_stream(head) or _text(head) or UNKNOWN


def sniff_file(path: Path) -> Content:
    """Identify the file at `path`."""
    with path.open("rb") as file:
        return sniff(file.read(HEAD_BYTES))


def is_of(content: Content, media_type: MediaType) -> bool:
    """Whether a file with this content may have the type `media_type`. Plain text may be any kind of text."""
    return content.name == media_type.content or (media_type.content == _TEXT.name and content.is_text)


def _container(head: bytes) -> Content | None:
    """Recognise formats whose name follows a size. A text may begin like that by chance, hence the checks for zeros."""
    if head[4:8] in _BOXES or (head[4:8] in _SMALL_BOXES and head[0] == 0):
        return _of_brands(head)
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return _BMP
    if head[:4] in {b"RIFF", b"RF64", b"FORM"} and head[8:12] in _IN_RIFF:
        return _IN_RIFF[head[8:12]]
    return _RIFF if head[:4] == b"RIFF" else None


def _of_brands(head: bytes) -> Content:
    """The kind of an MP4 by its main brand; `mif1` and `msf1` are general, and the others say more."""
    main, others = head[8:12], head[16 : int.from_bytes(head[:4])]
    if main in _AVIF_BRANDS or (main in _HEIC_BRANDS and any(brand in others for brand in _AVIF_BRANDS)):
        return _AVIF
    return _HEIC if head[4:8] == b"ftyp" and main in _HEIC_BRANDS else MP4


def _frames(head: bytes) -> Content | None:
    """Recognise MP3 and AAC frames: eleven set bits, then a valid layer, bitrate and sample rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:  # ADTS
        return _AAC if head[2] >> 2 & 0xF < 13 else None
    exists = head[1] & 0x06 != 0 and head[1] & 0x18 != 0x08 and head[2] >> 4 != 0xF and head[2] & 0x0C != 0x0C
    return _MP3 if exists else None


def _transport_stream(head: bytes) -> Content | None:
    found = any(
        len(head) > start + 2 * size and all(head[start + i * size] == 0x47 for i in range(3))
        for start, size in ((0, 188), (4, 192))
    )
    return TRANSPORT if found else None


def _text(head: bytes) -> Content | None:
    """The kind of text, in the encodings that subtitles use; None if it is not text."""
    encoding = next((name for bom, name in _BOMS if head.startswith(bom)), "latin-1")
    text = head.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    begin = text.lstrip()[:1]
    if "\0" in text or not begin:
        return None
    if begin == "<" and _HTML.match(text[:_HTML_CHARACTERS]):
        return HTML
    if begin != "<" and (_CUE.search(text) or _ASS.search(text)):
        return _SUBTITLES
    if _NO_TEXT.search(text if len(head) < HEAD_BYTES else text[:-1]):  # the last character may be cut
        return None
    if "<svg" in text[:_HTML_CHARACTERS]:
        return _SVG
    return _JSON if _BEGINS_JSON.match(text) else _TEXT
