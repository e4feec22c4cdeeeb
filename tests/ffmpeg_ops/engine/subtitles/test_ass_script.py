"""What is drawn: the right glyphs in the right colour at the right time, and no tag of the client's text."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffmpeg_ops.engine.subtitles.ass_script import to_ass
from ffmpeg_ops.engine.subtitles.captions import write_script
from ffmpeg_ops.engine.subtitles.cue import Cue, Row, Span
from ffmpeg_ops.engine.subtitles.fonts import Charset, Fonts, installed
from ffmpeg_ops.engine.subtitles.parse import parse_text
from ffmpeg_ops.engine.subtitles.style import PRESETS, StyleParams, look
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Frames, ffmpeg

FAMILIES = {family for face in installed() for family in face.families}
SCRIPTS = {
    "arabic": ("مرحبا بالعالم", "Noto Sans Arabic"),
    "hebrew": ("שלום עולם", "Noto Sans Hebrew"),
    "thai": ("สวัสดี ที่นี่", "Noto Sans Thai"),
    "hindi": ("नमस्ते", "Noto Sans Devanagari"),
    "chinese": ("你好世界", "Noto Sans CJK SC"),
    "japanese": ("こんにちは世界", "Noto Sans CJK JP"),
    "korean": ("안녕하세요", "Noto Sans CJK KR"),
    "emoji": ("😀🎉🔥", "Symbola"),
    "russian": ("Привет", "Noto Sans"),
    "portuguese": ("“Ação” — não…", "Noto Sans"),
}
each_script = pytest.mark.parametrize(("text", "family"), SCRIPTS.values(), ids=list(SCRIPTS))


def fonts(family: str = "Noto Sans", *, bold: bool = True, sample: str = "") -> Fonts:
    return Fonts(installed(), family, bold=bold, sample=sample)


def needs(family: str) -> None:
    if family not in FAMILIES:
        pytest.skip(f"the font {family} is not installed")


@cache
def drawn(cue: Cue, at_s: float = 0.5, size: tuple[int, int] = (480, 270), **style: Any) -> Frames:
    """A cue drawn on black, in RGB."""
    with tempfile.TemporaryDirectory() as folder:
        write_script(Work(Path(folder)), [cue], look(StyleParams().load(style), *size))
        source = ["-f", "lavfi", "-i", f"color=black:size={size[0]}x{size[1]}:rate=25"]
        draw = ["-vf", f"trim=start={at_s},format=gbrp,ass=captions.ass", "-frames:v", "1"]
        raw = ffmpeg(*source, *draw, "-f", "rawvideo", "-pix_fmt", "rgb24", "-", cwd=Path(folder))
    return np.frombuffer(raw, np.uint8).reshape(size[1], size[0], 3)


# --- glyphs ----------------------------------------------------------------------------------------------------------


@each_script
def test_every_letter_has_a_font_that_has_it(text: str, family: str) -> None:
    needs(family)
    chosen = fonts(sample=text)
    by_family = {name: face for face in installed() for name in face.families}
    runs = chosen.runs(text.replace(" ", ""))
    assert "".join(run for _, run in runs) == text.replace(" ", "") and not chosen.missing
    assert family in {name for name, _ in runs}
    for name, run in runs:
        assert all(char in by_family[name].charset for char in run)


@pytest.mark.slow
@each_script
def test_letters_are_drawn_and_not_boxes(text: str, family: str) -> None:
    """A missing glyph is the same box for every letter."""
    needs(family)
    letters = text.replace(" ", "")
    pictures = {drawn(Cue(0, 1000, char * 2), size=(120, 68)).tobytes() for char in set(letters) if not is_mark(char)}
    assert len(pictures) == len({char for char in letters if not is_mark(char)})


def is_mark(char: str) -> bool:
    return bool(re.match(r"[\u0e30-\u0e3a\u0e47-\u0e4e\u0900-\u0903\u093a-\u094f]", char))


@each_script
def test_text_is_measured_as_it_is_drawn(text: str, family: str) -> None:
    needs(family)
    columns = np.flatnonzero(drawn(Cue(0, 1000, f"I{text}I"), size=(960, 540), outline=0, shadow=0).any(axis=(0, 2)))
    measured = fonts(sample=text).width(f"I{text}I") * look(None, 960, 540).size
    assert float(np.ptp(columns)) == pytest.approx(measured, rel=0.06, abs=6)


def test_arabic_letters_are_joined_and_run_from_right_to_left() -> None:
    needs("Noto Sans Arabic")
    joined, apart = (drawn(Cue(0, 1000, text), outline=0, shadow=0) for text in ("سسس", "س س س"))
    assert np.ptp(np.flatnonzero(joined.any(axis=(0, 2)))) < 0.8 * np.ptp(np.flatnonzero(apart.any(axis=(0, 2))))
    first = Cue(0, 1000, "مرحبا بالعالم", (Span(0, 5, 0, 900), Span(6, 13, 900, 1000)))
    lit = drawn(first, highlight="word", highlight_color="#FF0000", outline=0, shadow=0)
    assert centre(red(lit)) > centre(white(lit)), "the first word stands on the right"


@pytest.mark.parametrize(
    ("text", "style", "warning"),
    [
        ("a\U0010fffdb", None, "no font has \U0010fffd; left out"),
        ("a", {"font": "Comic Neue Ultra"}, "the font Comic Neue Ultra is not installed; Noto Sans was used"),
    ],
)
def test_missing_glyphs_and_fonts_are_warnings(text: str, style: Any, warning: str, tmp_path: Path) -> None:
    assert write_script(Work(tmp_path), [Cue(0, 1000, text)], look(style, 160, 90)) == [warning]
    assert "\U0010fffd" not in (tmp_path / "captions.ass").read_text()


def test_without_a_list_of_fonts_text_is_still_written_and_measured() -> None:
    bare = Fonts((), "Noto Sans", bold=True)
    assert bare.runs("é你") == [("Noto Sans", "é你")] and 0.5 < bare.width("word") < 4
    charset = Charset("20-7e a0 1f600-1f64f")  # as fontconfig prints it
    assert [char in charset for char in " ~\x7f\xa0¡😀"] == [True, True, False, True, False, True]


# --- colours and times -----------------------------------------------------------------------------------------------


def red(picture: Frames) -> Frames:
    return (picture[..., 0] > 150) & (picture[..., 1] < 100)


def white(picture: Frames) -> Frames:
    return picture.min(axis=2) > 150


def centre(pixels: Frames) -> float:
    return float(np.flatnonzero(pixels.any(axis=0)).mean())


TIMED = Cue(0, 3000, "HHH HHH HHH", (Span(0, 3, 0, 1000), Span(4, 7, 1000, 2000), Span(8, 11, 2000, 3000)))


@pytest.mark.parametrize("at_s", [0.52, 1.52, 2.52])
def test_the_word_that_is_spoken_is_coloured_and_no_other(at_s: float) -> None:
    picture = drawn(TIMED, at_s, highlight="word", highlight_color="#FF0000", outline=0, shadow=0)
    ink = np.flatnonzero(picture.any(axis=(0, 2)))
    places = [red(part).sum() > 20 for part in np.array_split(picture[:, ink[0] : ink[-1]], 3, axis=1)]
    assert places == [i == int(at_s) for i in range(3)]
    assert white(picture).sum() > red(picture).sum()


def test_karaoke_fills_from_left_to_right() -> None:
    shares = []
    for at_s in (0.04, 0.52, 1.52, 2.96):
        picture = drawn(TIMED, at_s, highlight="karaoke", highlight_color="#FF0000", outline=0, shadow=0)
        shares.append(red(picture).sum() / (red(picture).sum() + white(picture).sum()))
        if 0.1 < shares[-1] < 0.9:
            assert centre(red(picture)) < centre(white(picture))
    assert shares == pytest.approx([0.01, 0.17, 0.5, 0.99], abs=0.06)


def test_colours_opacity_and_boxes_are_drawn() -> None:
    picture = drawn(Cue(0, 1000, "███"), color="#FF8000", outline=0, shadow=0)
    assert picture.max(axis=(0, 1)).tolist() == pytest.approx([255, 128, 0], abs=3)
    half = drawn(Cue(0, 1000, "███"), color="#FFFFFF80", outline=0, shadow=0)
    assert half.max() == pytest.approx(128, abs=4)
    blue = drawn(Cue(0, 1000, "long line\nx"), box="#0000FF", outline=0)[..., 2] > 200
    rows, columns = np.flatnonzero(blue.any(axis=1)), np.flatnonzero(blue.any(axis=0))
    assert blue[rows[0] : rows[-1], columns[0] : columns[-1]].mean() > 0.99, "one box behind all lines"


@pytest.mark.parametrize(
    ("position", "row", "column"),
    [("top-left", 0, 0), ("middle-center", 1, 1), ("bottom-right", 2, 2), ("top-right", 0, 2)],
)
def test_the_nine_points_are_where_they_say(position: str, row: int, column: int) -> None:
    ink = drawn(Cue(0, 1000, "xx"), position=position).any(axis=2)
    assert int(np.flatnonzero(ink.any(axis=1)).mean() // 90) == row
    assert int(np.flatnonzero(ink.any(axis=0)).mean() // 160) == column


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(480, 270), (270, 480), (270, 270)])
def test_long_text_stays_inside_the_margins_in_every_style(preset: str, size: tuple[int, int]) -> None:
    text = "Donaudampfschifffahrtsgesellschaft und " + "viele kurze Wörter " * 9 + "你好世界" * 9
    ink = drawn(Cue(0, 9000, text), 0.5, size, preset=preset).any(axis=2)
    margin = round(0.04 * size[0])
    assert ink.any() and not ink[:, :margin].any() and not ink[:, -margin:].any()
    assert not ink[: size[1] // 5].any()


# --- text is never a tag ---------------------------------------------------------------------------------------------

TAGS = ["{\\p1}", "\\N", "\\h", "{", "}", "\\", "{\\an8}", "{\\t(\\fs99)}", "{\\fnX}", "<00:00:00.100>", "[Fonts]"]
BREAKS = ["\n", "\r", "\x0b", "\x1c", "\x85", "\u2028", "\x00", "\x0c", "\r\n", "\nDialogue: 0,"]
LETTERS = ["Dialogue: 0,", "你", "😀", "م", " ", "a", "\ue003", "\ue004", "\ue0031\ue004"]
EVIL = st.lists(st.sampled_from([*TAGS, *BREAKS, *LETTERS]), max_size=10).map("".join)
OURS = re.compile(
    r"\{(?:\\an[1-9]|\\fn[\w .&+()-]*|\\fs[\d.]*|\\b[01]|\\k\d+|\\kf\d+|\\[1][ac]&H[0-9A-F]{2,6}&|\\t\(\d+,\d+,(?:\\1[ac]&H[0-9A-F]{2,6}&)+\))+\}"
)


def only_ours(script: str) -> bool:
    events = script.partition("[Events]")[2].splitlines()[2:]
    texts = [line.split(",", 9)[9] for line in events if line]
    bare = [OURS.sub("", text).replace("\\{", "").replace("\\}", "").replace("\\N", "") for text in texts]
    whole = all(line.startswith("Dialogue: ") for line in events if line)
    return whole and not any(re.search(r"[{}\x00-\x1f\x7f-\x9f\u2028]|\\(?!\u2060)", text) for text in bare)


@settings(max_examples=120, deadline=None)
@given(text=EVIL, highlight=st.sampled_from(["none", "word", "karaoke"]), upper=st.booleans())
def test_no_text_is_a_tag_or_a_line(text: str, highlight: str, upper: bool) -> None:
    style = look({"highlight": highlight, "upper_case": upper, "preset": "pop"}, 320, 180)
    cues = [Cue(0, 1000, text), Cue(0, 1000, "last", (Span(0, 2, 5, 9),))]
    assert only_ours(to_ass(cues, style, fonts()))


@settings(max_examples=80, deadline=None)
@given(
    text=EVIL,
    kind=st.sampled_from(["WEBVTT\n\n00:00.000 --> 00:01.000\nx {}\n", "1\n00:00:00,000 --> 00:00:01,000\nx {}\n"]),
)
def test_no_subtitles_are_a_tag_or_a_line(text: str, kind: str) -> None:
    cues = parse_text(kind.replace("{}", text), "subtitles")
    assert only_ours(to_ass(cues, look({"highlight": "word"}, 320, 180), fonts()))


def test_no_break_starts_a_line_of_the_script() -> None:
    for break_ in BREAKS:
        evil = f"Hi{break_}Dialogue: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,owned"
        script = to_ass([Cue(0, 1000, evil)], look(None, 160, 90), fonts())
        assert only_ours(script) and script.count("\nDialogue: ") == 1


def test_zero_length_cues_are_not_written() -> None:
    script = to_ass([Cue(500, 500, "x"), Cue(900, 100, "y"), Cue(-5, 0, "z")], look(None, 160, 90), fonts())
    assert "Dialogue" not in script


# --- where a cue is and which way it reads ---------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "tag"), [("top", "{\\an9}"), ("middle", "{\\an6}"), ("bottom", "{\\an3}"), (None, "")])
def test_a_cue_s_row_is_kept_in_the_column_of_the_style(row: Row | None, tag: str) -> None:
    script = to_ass([Cue(0, 1000, "x", row=row)], look({"position": "top-right"}, 320, 180), fonts())
    assert script.endswith(f",,{tag}x\n")


HEBREW, ENGLISH = "שלום לכולם, ערב טוב.", "It is a greeting, and it means peace."


@pytest.mark.parametrize(
    ("text", "other", "marks"),
    [
        ("12 שלום\n2024 Netflix עכשיו", "", ["\u200f", "\u200f"]),
        ("Netflix מציגה סדרה.", HEBREW, ["\u200f"]),  # a Latin name begins a Hebrew sentence
        ("Netflix Originals: סדרה.", HEBREW, ["\u200f"]),
        ("שלום means hello.", ENGLISH, ["\u200e"]),  # a Hebrew word begins an English one
        ("שלום לך!\nHello, David!", HEBREW, ["\u200f", ""]),  # each of two languages in its own direction
        ("\u200eשלום means hello.", HEBREW, ["\u200e"]),  # the author's mark decides
        ("\u200fNetflix מציגה.", ENGLISH, ["\u200f"]),
        ("Hello! 12", HEBREW, [""]),
        ("12:30", HEBREW, [""]),
    ],
)
def test_every_line_reads_in_the_direction_of_its_sentence(text: str, other: str, marks: list[str]) -> None:
    script = to_ass([Cue(0, 1000, other), Cue(0, 1000, text)], look(None, 320, 180), fonts())
    lines = script.rsplit(",,", 1)[1].strip().split("\\N")
    assert [line[0] if line[0] in "\u200e\u200f" else "" for line in lines] == marks


def test_lines_that_we_break_keep_the_direction_of_the_author_s_line() -> None:
    text = "הוא גר ברחוב Martin Luther King Boulevard 1200, New York, United States of America עכשיו"
    cues = [Cue(0, 1000, HEBREW)] * 5 + [Cue(0, 1000, text)]
    script = to_ass(cues, look({"line_length": 12}, 320, 180), fonts())
    lines = script.rsplit("Dialogue", 1)[1].rsplit(",,", 1)[1].strip().split("\\N")
    assert len(lines) > 2 and all(line.startswith("\u200f") for line in lines)


def test_a_line_separator_of_unicode_breaks_the_line() -> None:
    """Word processors write it."""
    script = to_ass([Cue(0, 1000, "\u2028one\u2028two")], look(None, 320, 180), fonts())
    assert script.endswith(",,one\\Ntwo\n")
