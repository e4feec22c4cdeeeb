from __future__ import annotations

import codecs
import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffmpeg_ops.engine.subtitles import ass_script, parse
from ffmpeg_ops.engine.subtitles.cue import Cue, Span
from ffmpeg_ops.engine.subtitles.fonts import Fonts, installed
from ffmpeg_ops.engine.subtitles.parse import parse_file, parse_text
from ffmpeg_ops.engine.subtitles.style import look
from wire.errors import AssetInvalid, AssetTooLarge

SRT = "1\n00:00:01,000 --> 00:00:02,500\nJá é manhã\n\n2\n00:00:03,000 --> 00:00:04,000\nBom dia:\nacorda!\n"
CUES = [Cue(1000, 2500, "Já é manhã"), Cue(3000, 4000, "Bom dia:\nacorda!")]

VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE a note before

00:01.000 --> 00:02.500 position:10% align:start
<v Ana>Já é <b>manhã</b></v>

NOTE a note between
of two lines

named-cue
00:00:03.000 --> 00:00:04.000
Bom dia:
acorda!
"""

ASS = """[Script Info]
ScriptType: v4.00+
PlayResX: 10

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour
Style: Loud,Impact,90,&H000000FF,&H000000FF,&H00000000,&H00000000,0,0,0,0,100,100,0,0,1,2,2,2,10,10,10,1

[Fonts]
fontname: evil.ttf
M(4=<4VP

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Loud,,0,0,0,,not shown
Dialogue: 0,0:00:01.00,0:00:02.50,Loud,,0,0,0,,{\\c&H0000FF&}Já é {\\i1}manhã
Dialogue: 0,0:00:01.00,0:00:02.50,Loud,,0,0,0,,{\\p1}m 0 0 l 100 0 100 100{\\p0}
Dialogue: 0,0:00:03.00,0:00:04.00,Loud,,0,0,0,Scroll up;0;9,Bom dia:\\Nacorda!
"""

SSA = """[Script Info]
ScriptType: v4.00

[V4 Styles]
Format: Name, Fontname

[Events]
Format: Marked, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: Marked=0,0:00:01.00,0:00:02.50,Default,,0,0,0,,Já é manhã
Dialogue: Marked=0,0:00:03.00,0:00:04.00,Default,,0,0,0,,Bom dia:\\Nacorda!
"""


def to_ass(cues: list[Cue], width: int, height: int) -> str:
    plain = look(None, width, height)
    return ass_script.to_ass(cues, plain, Fonts(installed(), plain.font, bold=plain.bold))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captions"


def cues_of(text: str | bytes, path: Path) -> list[Cue]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse_file(path, "url_srt")


def srt(text: str) -> str:
    return f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n"


# --- formats and encodings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_a_text_that_comes_as_json_is_read(line_break: str) -> None:
    """From tools that pass values on without decoding them."""
    text = json.dumps(SRT.replace("\n", line_break))
    assert parse_text(text, "subtitles") == parse_text(text[1:-1], "subtitles") == CUES
    assert parse_text(json.dumps(SRT, ensure_ascii=False)[1:-1], "subtitles") == CUES
    assert parse_text(SRT.replace("acorda!", "C:\\new"), "subtitles")[1].text == "Bom dia:\nC:\\new"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("source", [SRT, VTT, ASS, SSA], ids=["srt", "vtt", "ass", "ssa"])
def test_each_format_gives_the_same_cues(source: str, newline: str, path: Path) -> None:
    assert cues_of(source.replace("\n", newline), path) == CUES


@pytest.mark.parametrize("source", [SRT, VTT], ids=["srt", "vtt"])
def test_common_encodings_are_read(source: str, path: Path) -> None:
    boms = [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")]
    for bom, encoding in (*boms, (b"", "utf-8"), (b"", "cp1252")):
        assert cues_of(bom + source.encode(encoding), path) == CUES
        assert cues_of(bom + srt("“aspas” –…").encode(encoding), path)[0].text == "“aspas” –…"


def test_sloppy_files_are_read(path: Path) -> None:
    assert cues_of(SRT.replace("\n\n", "\n"), path) == CUES, "blank lines missing"
    assert cues_of(f"1\n00:00:00,000 --> 00:00:00,500\n\n{SRT}", path) == CUES, "an empty cue"
    assert cues_of("WEBVTT\n\n00:01.000 --> 01:00.000\nx\n", path) == [Cue(1000, 60_000, "x")], "no hours"


def test_karaoke_marks_and_entities_of_webvtt_are_read(path: Path) -> None:
    source = "WEBVTT\n\n00:01.000 --> 00:02.000\nTom <00:00:01.200><c>&amp;</c><00:00:01.500> Jerry &lt;3\n"
    spans = (Span(0, 3, 1000, 1200), Span(4, 5, 1200, 1500), Span(6, 14, 1500, 2000))
    assert cues_of(source, path) == [Cue(1000, 2000, "Tom & Jerry <3", spans)]


# --- text is text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a {word} b", "C:\\Novo\\nome\\h", "{", "}", "\\", "}{", "\\N", "2 < 3 > 1", "100 % {}", "\\{a\\}"]
)
def test_braces_and_backslashes_are_text(text: str, path: Path) -> None:
    for form in (srt(text), f"WEBVTT\n\n00:01.000 --> 00:02.000\n{text}\n"):
        assert [cue.text for cue in cues_of(form, path)] == [text]


def test_of_an_ass_script_only_text_and_times_are_kept(path: Path) -> None:
    script = to_ass(cues_of(ASS, path), 160, 90)
    unwanted = ("Impact", "Loud", "evil", "[Fonts]", "Scroll", "\\c&", "\\p1", "not shown")
    assert not any(word in script for word in unwanted)
    assert "PlayResX: 160" in script and "PlayResY: 90" in script
    assert "Dialogue: 0,0:00:00.00,0:00:01.00," in to_ass([Cue(-500, 1000, "x")], 160, 90), "moved to the start"


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!doctype html><html>Log in --> here</html>", "an HTML page"),
        (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        (b'{"error": "expired"}', "a JSON document"),
        (b"just words", "a text file"),
        (b"\xff\xfe\x00", "of an unknown kind"),
        (b"{0}{25}MicroDVD has no times", "a text file"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://x/y\n", "a playlist"),
        (b"", "of an unknown kind"),
    ],
)
def test_other_files_and_empty_subtitles_are_refused(content: bytes, said: str, path: Path) -> None:
    with pytest.raises(AssetInvalid) as caught:
        cues_of(content, path)
    assert caught.value.message == f"url_srt: the file is {said}, not readable SRT, WebVTT or ASS."
    for source in ("WEBVTT\n\n", srt("  "), srt("<i></i>"), ASS.partition("Dialogue")[0]):
        with pytest.raises(AssetInvalid, match="url_srt: the file contains no subtitles"):
            cues_of(source, path)


def test_files_past_the_limit_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "MAX_BYTES", len(SRT.encode()))
    assert cues_of(SRT, path) == CUES
    with pytest.raises(AssetTooLarge, match="url_srt"):
        cues_of(SRT + "\n", path)


def test_a_large_file_is_read_in_time(path: Path) -> None:
    times = [f"{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}" for i in range(20_000)]
    many = "".join(f"{i}\n{at},000 --> {at},900\n{{<i}} line {i} <\n\n" for i, at in enumerate(times))
    assert len(cues_of(many, path)) == 20_000


PIECES = st.sampled_from(
    """[Script Info]¦|[Events]¦|[V4+ Styles]¦|[Fonts]¦|fontname: x¦|Dialogue: |Style: |Comment: |{\\p1}|{\\p99999999999}|{\\i|{\\r
|0,0:00:01.00,0:00:02.00,D,,0,0,0,,|{\\fs-1}|,,,|¦|\r|\0|x|WEBVTT¦¦|00:00:01,000 --> 00:00:02,000¦|00:01.000 --> 00:02.000¦
|99:99:99,999| --> |1¦|<i>|<|&""".replace("\n", "")
    .replace("¦", "\n")
    .split("|")
)


ANYTHING = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=200, deadline=None)
@given(
    ANYTHING.map(str.encode)
    | st.binary(max_size=60)
    | ANYTHING.map(lambda text: f"[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\n{text}".encode())
)
def test_any_content_is_parsed_or_refused(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, suppress(AssetInvalid):
        file.write(content)
        file.flush()
        assert "[Events]" in to_ass(parse_file(Path(file.name), "url_srt"), 160, 90)


ONE_SRT, ONE_VTT = "1\n00:00:00,000 --> 00:00:01,000\n", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n"
ONE_ASS = "[Script Info]\n[Events]\nFormat: Start, End, Text\nDialogue: 0:00:00.00,0:00:01.00,"


@pytest.mark.parametrize("head", [ONE_SRT, ONE_VTT, ONE_ASS], ids=["srt", "vtt", "ass"])
@pytest.mark.parametrize("piece", ["{\\\\", "{", "<a", "<", "</ ", "<c ", "<font ", "<1", "\n", "1\n", " 1 \n", "&"])
def test_parsing_takes_linear_time(head: str, piece: str) -> None:
    """A quadratic pattern takes at least 20 s of CPU time here, a linear one about one."""
    begun = time.process_time()
    with suppress(AssetInvalid):
        parse_text(head + piece * 200_000, "subtitles")
    assert time.process_time() - begun < 8


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("WEBVTT\n\n00:00.000 --> 00:01.000\nPrice:\n10\n\n00:01.000 --> 00:02.000\nnext\n", ["Price:\n10", "next"]),
        (ONE_SRT + "Year\n2024", ["Year\n2024"]),
        (ONE_SRT + "Year\n2024\n\n2\n00:00:01,000 --> 00:00:02,000\n1999\n", ["Year\n2024", "1999"]),
        (ONE_SRT + "if a <b and c> d", ["if a <b and c> d"]),
        (ONE_SRT + '<i>It</i> <font color="red">is</font> <B>so</B>', ["It is so"]),
        (ONE_SRT + "{\\an8}up here{\\i0}", ["up here"]),
        (ONE_SRT + "1 < 2 and 3 > 2", ["1 < 2 and 3 > 2"]),
    ],
)
def test_tags_are_removed_and_numbers_and_signs_are_text(text: str, shown: list[str]) -> None:
    assert [cue.text for cue in parse_text(text, "subtitles")] == shown


LONG = 1_000_000
CUE = "1\n00:00:00,000 --> 00:00:01,000\n"


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{'1' * LONG}\n```\n{CUE}x",
        f"```\n{'1' * LONG}{';' * LONG}\n```\n{CUE}x",
        f"```{' ' * LONG}!\n{CUE}x",
        f"```{'a' * LONG}!\n{CUE}x",
        f"{' ' * LONG}x\n{CUE}x",
        f"{' ' * LONG}-->\n{CUE}x",
        f"{'1 ' * LONG}--> x\n{CUE}x",
        f"00:00:00,000{' ' * LONG}x\n{CUE}x",
        f"00:00:00,000 {'-' * LONG}\n{CUE}x",
        f"1{' : 1' * LONG}\n{CUE}x",
        f"{CUE}{'<a ' * LONG}",
        f"{CUE}{'&a' * LONG}",
        f"1\n00:00:00,000 --> 00:00:01,000{' a:b' * LONG}\t!!",
        f"1\n00:00:00,000 --> 00:00:01,000{' ' * LONG}a{'a' * LONG} :",
        f"{CUE}x{chr(13) * LONG}",
        "\\r" * LONG + "00:00:00,000 --> 00:00:01,000",
    ],
    ids=range(16),
)
def test_no_pattern_takes_a_long_line_in_more_than_one_way(text: str) -> None:
    """Else this would take hours: the time grows with the square, or the cube, of the length."""
    with suppress(AssetInvalid):
        parse_text(text, "subtitles")
