"""`wire.media_types`: one line a type, and no other place in the product that knows extensions or MIME types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from wire.media_types import MEDIA_TYPES, MP4, MediaType, of_file_name
from wire.sniffing import HEAD_BYTES, is_of, sniff

PRODUCT = ("common", "ffmpeg_ops", "gateway", "handler", "wire")
MIME = re.compile(r"\b(?:video|image|audio)/[a-z0-9.+-]+|application/(?:json|x-subrip)\b|text/(?:vtt|plain)\b")
EXTENSION = re.compile(rf"\.(?:{'|'.join(known.extension for known in MEDIA_TYPES.values())})\b")
# Not files of a job: API documents, the worker's deadline, metrics.
NOT_FILES = re.compile(
    r"https?://\S+|application/(?:problem\+)?json|(?:openapi(?:-worker)?|deadline|test_input)\.json|\w+\.json[(.]|"
    r"content_type=\"text/plain\",\s+description=\"Prometheus"
)

each_type = pytest.mark.parametrize("known", MEDIA_TYPES.values(), ids=list(MEDIA_TYPES))


def sources() -> list[Path]:
    return [
        path
        for package in PRODUCT
        for path in (ROOT / package).rglob("*.py")
        if path.name not in {"media_types.py"}
        and not {"migrations", "web"} & set(path.parts)  # web/ has no job's files
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_knows_an_extension_or_a_mime_type(path: Path) -> None:
    text = NOT_FILES.sub("", path.read_text())
    assert [*MIME.findall(text), *EXTENSION.findall(text)] == []


@each_type
def test_a_type_is_found_by_the_extension_of_a_file(known: MediaType) -> None:
    assert of_file_name(f"outputs/job/att/name.{known.extension}") is known


@pytest.mark.parametrize("name", ["", "mp4", "name", "name.exe", "name.MP4", "a.mp4/b", "name.mp4 "])
def test_other_names_have_no_type(name: str) -> None:
    assert of_file_name(name) is None


def test_no_two_types_share_an_extension() -> None:
    assert len({known.extension for known in MEDIA_TYPES.values()}) == len(MEDIA_TYPES)


@each_type
def test_a_type_is_written_as_headers_and_paths_are(known: MediaType) -> None:
    assert re.fullmatch(r"[a-z0-9]{2,5}", known.extension) and re.fullmatch(r"[a-z0-9]+", known.name)
    assert re.fullmatch(r"[a-z]+/[a-z0-9.+-]+(; charset=utf-8)?", known.mime)
    assert known.kind in {"video", "image", "audio", "subtitles", "text"}


def test_the_samples_are_what_their_names_say(samples: Path) -> None:
    for path in samples.iterdir():
        if (known := of_file_name(path.name)) is not None:
            assert is_of(sniff(path.read_bytes()[:HEAD_BYTES]), known), path.name
    assert of_file_name("video.mp4") is MP4
