"""`wire.sniffing`: what a file is, and what counts as media: everything that the operations read, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from wire.media_types import JPEG, JSON, M4A, MP4, PNG, SRT, TXT, WAV, WEBM, MediaType
from wire.sniffing import HEAD_BYTES, is_of, sniff

ENCODINGS = {
    "mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "flv": "flv",
    "asf": "msmpeg4", "ivf": "libvpx", "mpg": "mpeg1video", "m2v": "mpeg2video", "ts": "libx264", "m2ts": "libx264",
    "mxf": "mpeg2video", "nut": "mpeg4", "h264": "libx264", "ogv": "libtheora", "m4v": "mpeg4",
}  # fmt: skip
SOUNDS = ["mp3", "aac", "ac3", "eac3", "flac", "ogg", "wav", "aiff", "w64", "caf", "wv", "tta", "m4a", "opus"]
PICTURES = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
SUBTITLES = [
    "1\n00:00:01,000 --> 00:00:02,000\nhello\n",
    "\n\n1\r\n00:00:01,000 --> 00:00:02,000\r\nhello\r\n",
    "1\r0:00:01,0 --> 0:00:02,0\rhello\r",
    "WEBVTT\n\n00:01.000 --> 00:02.000 align:start\n<b>hello</b>\n",
    "[Script Info]\nTitle: x\n",
    "; a comment\n[Script Info]\n",
    "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,hello\n",
    "NOTE " + "styles " * 2000 + "\n\n00:01.000 --> 00:02.000\nhello\n",
]


def is_media(head: bytes) -> bool:
    return sniff(head).is_media


def head(path: Path) -> bytes:
    return path.read_bytes()[:HEAD_BYTES]


def make(path: Path, *arguments: str) -> bool:
    command = ["ffmpeg", "-v", "error", "-y", *arguments, str(path)]
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize("ending", ENCODINGS)
def test_every_video_that_ffmpeg_makes_is_media(tmp_path: Path, ending: str) -> None:
    source = ["-f", "lavfi", "-i", "testsrc=size=176x144:rate=25:duration=0.4", "-c:v", ENCODINGS[ending]]
    if not make(tmp_path / f"x.{ending}", *source):
        pytest.skip("this FFmpeg does not make it")
    assert is_media(head(tmp_path / f"x.{ending}"))


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize("tags", ["with tags", "without"])
@pytest.mark.parametrize("ending", SOUNDS)
def test_every_sound_that_ffmpeg_makes_is_media(tmp_path: Path, ending: str, tags: str) -> None:
    bare = ["-id3v2_version", "0", "-write_xing", "0"] if (ending, tags) == ("mp3", "without") else []
    assert make(tmp_path / f"x.{ending}", "-f", "lavfi", "-i", "sine=duration=0.2", *bare)
    assert is_media(head(tmp_path / f"x.{ending}"))


@pytest.mark.parametrize("kind", PICTURES)
def test_every_picture_is_media(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x", kind)
    assert is_media(head(tmp_path / "x"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("text", SUBTITLES, ids=range(len(SUBTITLES)))
def test_subtitles_are_media_in_every_encoding(text: str, encoding: str) -> None:
    assert is_media((text + "é").encode(encoding)[:HEAD_BYTES])


@pytest.mark.parametrize(("head", "used"), [(b"\0\1\0\0\0\x12", True), (b"OTTO\0\x0b", True), (b"wOF2OTTO", False)])
def test_fonts_that_operations_read_are_media(head: bytes, used: bool) -> None:
    assert is_media(head) == used


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"\xff\xff\xff\xff", b"\xff\xfe<\0s\0v\0g\0", b"-->", b"00:00 --> 00:01", b"G" * 100, b"\0" * 9],
)
def test_a_file_that_only_begins_like_media_is_none(content: bytes) -> None:
    assert not is_media(content)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"ID3\x04", "MP3 audio"),
        (b"fLaC", "FLAC audio"),
        (b"OggS", "an Ogg file"),
        (b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
        (b"\0\1\0\0\0\x12", "a font"),
        (b"OTTO\0\x0b", "a font"),
        (b"ttcf\0\1\0\0", "a font"),
        (b"wOF2OTTO", "a WOFF2 web font"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP image"),
        (b"RIFF\0\0\0\0WAVEfmt ", "WAV audio"),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI video"),
        (b"RIFF\0\0\0\0CDR ", "a RIFF file"),
        (b"\0\0\0\x18ftypheic", "an HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "an HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF image"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "an AVIF image"),
        (b"\0\0\0\x18ftypqt  ", "an MP4 or MOV file"),
        (b"\0\0\0\x18stypmsdh", "an MP4 or MOV file"),
        (b"\0\0\2\x18moof\0\0\0\x10mfhd", "an MP4 or MOV file"),
        ("\ufeff<html>".encode(), "an HTML page"),
        ("\ufeff#EXTM3U".encode(), "a playlist"),
    ],
)
def test_the_first_bytes_have_a_name_for_people(head: bytes, name: str) -> None:
    assert sniff(head).label == name


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\0\0\0\x18ftypisom", MP4),
        (b"\0\0\0\x18ftypM4A ", M4A),
        (b"\x1aE\xdf\xa3", WEBM),
        (b"\xff\xd8\xff\xe0", JPEG),
        (b"RIFF\0\0\0\0WAVEfmt ", WAV),
        (b"1\n00:00:01,000 --> 00:00:02,000\nHi\n", SRT),
        (b' {"a": 1}', JSON),
        (b"[1, 2]", JSON),
        (b'{"a": 1}', TXT),
        (b"BMW is a brand", TXT),
        (b"The wide world", TXT),
        (b"FORMAT: none", TXT),
    ],
)
def test_a_file_of_its_declared_type_is_accepted(head: bytes, media_type: MediaType) -> None:
    assert is_of(sniff(head), media_type)


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", PNG),
        (b"\xff\xd8\xff\xe0", TXT),
        (b"\0\0\0\x18ftypheic", MP4),
        (b"<html>", JSON),
        (b"just words", JSON),
        (b"just words", SRT),
        (b"\x01\x02 noise", TXT),
        (b"", TXT),
    ],
)
def test_a_file_of_another_type_is_noticed(head: bytes, media_type: MediaType) -> None:
    assert not is_of(sniff(head), media_type)
