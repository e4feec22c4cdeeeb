"""`font_file.load`: which fonts are used, under which name, and what is refused and why."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from ffmpeg_ops.engine import confined
from ffmpeg_ops.engine.subtitles import font_file
from ffmpeg_ops.engine.subtitles.font_reading import MAX_BYTES
from ffmpeg_ops.engine.subtitles.fonts import Face, installed
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, AssetTooLarge, Cancelled, JobError, WorkerError

NAME = "style.url_font"
TEXT = "Bom dia, João!"


def font(family: str) -> Path:
    """The regular face of an installed family."""
    found = (face for face in installed() if family in face.families and face.weight == 80)
    return Path(next(found).file)


def load(work: Work, content: bytes, text: str = TEXT) -> Face:
    path = work.directory / "asset-1"
    path.write_bytes(content)
    return font_file.load(path, NAME, text, work)


def tables(content: bytes) -> dict[bytes, tuple[int, int]]:
    """The start and length of each table of a font."""
    (count,) = struct.unpack_from(">H", content, 4)
    records = [struct.unpack_from(">4s4xII", content, 12 + 16 * i) for i in range(count)]
    return {tag: (start, length) for tag, start, length in records}


@pytest.fixture(scope="module")
def sans() -> bytes:
    return font("Noto Sans").read_bytes()


def test_a_font_has_a_name_of_its_own_and_the_measures_of_the_installed_one(work: Work, sans: bytes) -> None:
    own = load(work, sans)
    (same,) = [face for face in installed() if face.file == str(font("Noto Sans"))]
    assert own.families == ("Reelay Font 0",)
    assert (own.weight, own.index) == (same.weight, 0)
    assert own.height == same.height
    for word in TEXT.split():
        assert own.width(word) == pytest.approx(same.width(word), rel=0.03), "but for kerning"
    assert all((char in own.charset) == (char in same.charset) for char in map(chr, range(32, 0x3000)))
    assert load(work, sans).families == ("Reelay Font 1",)


@pytest.mark.parametrize("family", ["Noto Sans CJK JP", "Symbola"])
def test_collections_and_fonts_of_postscript_outlines_are_read(family: str, work: Work) -> None:
    own = load(work, font(family).read_bytes(), "日本 ☂")
    assert own.families == ("Reelay Font 0",)
    assert own.has("☂") if family == "Symbola" else own.has("日")


def test_a_font_without_names_gets_one(work: Work, sans: bytes) -> None:
    """As the fonts inside PDFs have none."""
    assert load(work, sans.replace(b"name", b"namX", 1)).families == ("Reelay Font 0",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello, this is no font\n" * 50, "the file is a text file, not a TTF or OTF font"),
        (b"<!doctype html><html><body>404</body></html>", "the file is an HTML page, not a TTF or OTF font"),
        (b"wOF2" + bytes(5000), "a WOFF2 web font; use the TTF or OTF file"),
        (b"wOFF" + bytes(5000), "a WOFF web font; use the TTF or OTF file"),
        (b"\0\1\0\0\0", "cut off"),
        (b"OTTO\0\x0b" + bytes(300), "damaged"),
        (b"ttcf\0\1\0\0\0\0\0\1\xff\xff\xff\xff", "cut off"),
    ],
    ids=["text", "html", "woff2", "woff", "five bytes", "empty tables", "an offset past the end"],
)
def test_what_is_no_font_is_refused_by_what_it_is(content: bytes, said: str, work: Work) -> None:
    with pytest.raises(AssetInvalid, match=rf"^style\.url_font: .*{said}"):
        load(work, content)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.999])
def test_a_font_that_is_cut_off_is_refused(share: float, work: Work, sans: bytes) -> None:
    with pytest.raises(AssetInvalid, match=r"^style\.url_font: the font is cut off\.$"):
        load(work, sans[: int(share * len(sans))])


def test_a_font_of_100_mb_is_refused_before_it_is_read(work: Work) -> None:
    path = work.directory / "asset-1"
    with path.open("wb") as file:
        file.write(b"OTTO\0")
        file.truncate(100_000_000)
    with pytest.raises(AssetTooLarge, match=rf"larger than {MAX_BYTES // 1_000_000} MB"):
        font_file.load(path, NAME, TEXT, work)


def test_the_same_part_of_the_file_in_many_tables_takes_no_memory(work: Work) -> None:
    """A small file with 255 tables that are all of it."""
    size = 4_000_000
    records = b"".join(struct.pack(">4s4xII", f"t{i:03d}".encode(), 0, size) for i in range(255))
    with pytest.raises(AssetInvalid, match="damaged"):
        load(work, (struct.pack(">4s4H", b"\0\1\0\0", 255, 0, 0, 0) + records).ljust(size, b"\0"))


def test_a_font_without_outlines_is_refused(work: Work, sans: bytes) -> None:
    with pytest.raises(AssetInvalid, match="no outlines|damaged"):
        load(work, sans.replace(b"glyf", b"glyX", 1).replace(b"loca", b"locX", 1))


def test_the_font_is_parsed_in_the_child_alone(work: Work, sans: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(*_: object, **__: object) -> None:
        raise AssertionError("the font was opened by the worker itself")

    monkeypatch.setattr("ffmpeg_ops.engine.subtitles.fonts.ImageFont.truetype", here)
    own = load(work, sans)
    assert own.width("a") > 0 and own.height > 0


@pytest.mark.parametrize(
    "facts",
    [{}, {"height": 1, "widths": []}, {"height": float("nan"), "widths": None}, {"height": -1, "widths": None}],
)
def test_a_child_that_was_taken_over_is_not_believed(
    facts: dict[str, object], work: Work, sans: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {**facts, "widths": [1.0] * 9} if facts.get("widths", 0) is None else facts
    monkeypatch.setattr(confined, "run", lambda *_, **__: confined.Result(facts, sans))
    with pytest.raises(AssetInvalid, match="damaged"):
        load(work, sans, "Bom dia")


def test_a_stop_ends_it(work: Work, sans: bytes) -> None:
    work.stop.set(Cancelled())
    with pytest.raises(Cancelled):
        load(work, sans)


@pytest.mark.slow
def test_damaged_fonts_end_well_or_in_a_clear_error(work: Work, sans: bytes) -> None:
    """Bytes are changed all over the file, and most in the tables that say how it is read."""
    rng, outcomes = random.Random(0), set()
    for table in ["cmap", "head", "hhea", "maxp", "hmtx", "loca", "glyf", "GSUB", "GPOS", "OS/2", "all"] * 3:
        content = bytearray(sans)
        start, length = tables(sans).get(table.encode(), (0, len(sans)))
        for _ in range(rng.randint(1, 40)):
            content[start + rng.randrange(length)] = rng.randrange(256)
        try:
            load(work, bytes(content))
            outcomes.add("loaded")
        except JobError as error:
            assert isinstance(error, AssetInvalid) and error.message.startswith(NAME), error
            assert not isinstance(error, WorkerError)
            outcomes.add("refused")
    assert outcomes >= {"loaded"}
