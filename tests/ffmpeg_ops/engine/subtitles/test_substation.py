"""ASS and SSA scripts are read as libass reads them, whatever is wrong with their styles."""

from __future__ import annotations

import pytest

from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.engine.subtitles.parse import parse_text

FORMAT = "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
LINE = "Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{}\n"
STYLES = "[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, Alignment\n"


def rows(script: str) -> list[tuple[str, str | None]]:
    return [(cue.text, cue.row) for cue in parse_text(script, "subtitles")]


def test_escaped_braces_are_text() -> None:
    script = f"[Events]\n{FORMAT}" + LINE.format(r"{\b1}a \{b\} {\i1}c \{d")
    assert [text for text, _ in rows(script)] == ["a {b} c {d"]


@pytest.mark.parametrize(
    "head",
    [
        "[Script Info]\nScriptType: v4.00+\n\n[Events]\n" + FORMAT,
        "[Events]\n" + FORMAT,
        "[Events]\n",
        "[script info]\n[events]\n" + FORMAT,
        f"[Script Info]\n{STYLES}Style: Default,Arial,20,&H00FFFFFF&,2\n[Events]\n{FORMAT}",
        f"[Script Info]\n{STYLES}Style: Default,Arial,large,red,two\nStyle: x\nStyle:\n[Events]\n{FORMAT}",
    ],
)
def test_styles_may_be_missing_or_wrong(head: str) -> None:
    script = head + LINE.format("a, b") + "Dialogue: broken\nDialogue: 0,1,2,D,,0,0,0,,no times\n"
    assert [(cue.start_ms, cue.end_ms, cue.text) for cue in parse_text(script, "subtitles")] == [(1000, 2500, "a, b")]


def test_fields_are_in_the_order_of_the_format() -> None:
    script = "[Events]\nFormat: End, Start, Text\nDialogue: 0:00:02.5,0:00:01.00,a, b\n"
    assert parse_text(script, "subtitles") == [Cue(1000, 2500, "a, b")]


def test_a_line_in_several_layers_is_one() -> None:
    layers = LINE.format("{\\bord4}same") + LINE.replace(": 0", ": 1").format("{\\k50}sa{\\k50}me")
    (cue,) = parse_text(f"[Events]\n{FORMAT}{layers}", "subtitles")
    assert cue.text == "same" and len(cue.spans) == 2
    others = LINE.format("same") + LINE.replace("02.50", "03.00").format("same")
    assert len(parse_text(f"[Events]\n{FORMAT}{others}", "subtitles")) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\\Nb\\nc\\hd", "a\nb\nc\xa0d"),
        ("{\\p1}m 0 0 l 9 9{\\p0}after", "after"),
        ("before{\\p2}m 0 0", "before"),
        ("{a comment}x{unclosed", "xunclosed"),
    ],
)
def test_of_a_line_only_its_text_is_kept(text: str, shown: str) -> None:
    assert rows(f"[Events]\n{FORMAT}{LINE.format(text)}") == [(shown, None)]


def test_rows_are_those_of_the_tag_or_the_style() -> None:
    styles = f"{STYLES}Style: Default,Arial,20,&H0,8\nStyle: Low,Arial,20,&H0,2\n"
    low = LINE.replace("Default", "Low")
    lines = LINE.format("a") + low.format("b") + low.format("{\\an5}c") + low.format("{\\a6}d")
    expected = [("a", "top"), ("b", "bottom"), ("c", "middle"), ("d", "top")]
    assert rows(f"{styles}[Events]\n{FORMAT}{lines}") == expected
    old = "[V4 Styles]\nFormat: Name, Alignment\nStyle: Default,10\n[Events]\n"
    assert rows(old + FORMAT + LINE.format("a")) == [("a", "middle")]
