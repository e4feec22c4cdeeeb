"""Whether a file is one that a job may name, told by its content alone: names and media types are only claims."""

from __future__ import annotations

import codecs
import re

# So much of a file has to be known. Subtitles may begin with a long head of styles.
HEAD_BYTES = 64 * 1024

_MAGIC = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF
    b"DKIF",  # IVF
    b"nut/multimedia container\0",
    b"\x06\x0e+4\x02\x05\x01\x01",  # MXF
    b"\x1f\x07\0",  # DV
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG video
    b"\0\0\0\x01",  # H.264, HEVC
    b"\0\0\x01\x09",
    b"\0\0\x01\x67",
    b"\0\0\x01\x40",
    b"ID3",
    b"OggS",
    b"fLaC",
    b"caff\0\x01",
    b"#!AMR",
    b"TTA1",
    b"wvpk",
    b"riff.\x91\xcf\x11",  # W64
    b"\x0bw",  # AC-3
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",  # TIFF
    b"MM\0*",
)
_INNER = frozenset({b"WEBP", b"WAVE", b"AVI ", b"AIFF", b"AIFC"})
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CUE = re.compile(
    r"^[ \t]*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}[ \t]*-->[ \t]*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}", re.MULTILINE
)
_ASS = re.compile(r"\[Script Info\]|Dialogue:\s", re.IGNORECASE)


def is_media(head: bytes) -> bool:
    """Whether a file is video, audio, image or subtitles. `head`: its first HEAD_BYTES, or all of it."""
    return _is_binary_media(head) or _is_subtitles(head)


def _is_binary_media(head: bytes) -> bool:
    if head.startswith(_MAGIC) or head[4:8] in _BOXES:
        return True
    if head[:4] in {b"RIFF", b"RF64", b"FORM"}:
        return head[8:12] in _INNER
    return _is_frames(head) or _is_transport_stream(head)


def _is_frames(head: bytes) -> bool:
    """MP3 or AAC without any head: eleven bits that are set, and a layer, rate and frequency that exist."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    if head[1] & 0xF6 == 0xF0:  # ADTS
        return head[2] >> 2 & 0xF < 13
    return head[1] & 0x06 != 0 and head[1] & 0x18 != 0x08 and head[2] >> 4 != 0xF and head[2] & 0x0C != 0x0C


def _is_transport_stream(head: bytes) -> bool:
    return any(
        len(head) > start + 2 * size and all(head[start + i * size] == 0x47 for i in range(3))
        for start, size in ((0, 188), (4, 192))
    )


def _is_subtitles(head: bytes) -> bool:
    text = _text(head)
    if text is None or text.lstrip().startswith("<"):
        return False
    return bool(_CUE.search(text) or _ASS.search(text))


def _text(head: bytes) -> str | None:
    """`head` as text in what subtitles come in; None when it holds what no text does."""
    encoding = next((name for bom, name in _BOMS if head.startswith(bom)), "latin-1")
    text = head.decode(encoding, "replace")
    return None if "\0" in text else text.replace("\r\n", "\n").replace("\r", "\n")
