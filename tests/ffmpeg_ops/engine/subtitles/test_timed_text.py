"""SRT and WebVTT as people, editors and language models write them: read as meant or refused, never drawn."""

from __future__ import annotations

import pytest

from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.engine.subtitles.parse import parse_text
from wire.errors import AssetInvalid

GOOD = "1\n00:00:00,500 --> 00:00:01,000\ngood\n"
FIRST = Cue(500, 1000, "good")


@pytest.mark.parametrize(
    "times",
    [
        "00:00:03,000 --> 00:00:05,000",
        "00:03,000 --> 00:05,000",
        "00:00:03 --> 00:00:05",
        "00:03 --> 00:05",
        "0:0:3,0 --> 0:0:5,0",
        "00:00:03.000 --> 00:00:05.000",
        "00:00:03:000 --> 00:00:05:000",
        "00:00:03,000 -> 00:00:05,000",
        "00:00:03,000 → 00:00:05,000",
        "00:00:03,000 —> 00:00:05,000",
        "00:00:03,000 --&gt; 00:00:05,000",
        "00:00:03,000 -- > 00:00:05,000",
        "00:00:03,000 - 00:00:05,000",
        "00:00:03,000 > 00:00:05,000",
        "00:00:03,000-->00:00:05,000",
        "00: 00: 03, 000 --> 00: 00: 05, 000",
        "  00:00:03,000 --> 00:00:05,000  ",
        "00:00:03,000 --> 00:00:05,000 X1:10 X2:20 Y1:1 Y2:2",
        "٠٠:٠٠:٠٣,٠٠٠ --> ٠٠:٠٠:٠٥,٠٠٠",
        "00：00：03，000 --> 00：00：05，000",
        "\u200e00:00:03,000 --> 00:00:05,000\u200f",
        "[00:00:03.000 --> 00:00:05.000]",
    ],
)
@pytest.mark.parametrize(
    "before", ["\n2\n", "\n2\n\n", "\n", "2\n", "\n**2**\n", "\n2.\n", "\n#2\n", "\n\ufeff2\n", "\n\u200b2\u200b\n"]
)
def test_any_form_of_times_is_read(times: str, before: str) -> None:
    for rest in ("then\n", "then\n\n3\n00:00:06,000 --> 00:00:07,000\nlast\n"):
        cues = parse_text(f"{GOOD}{before}{times}\n{rest}", "subtitles")
        assert cues[:2] == [FIRST, Cue(3000, 5000, "then")]
        assert [cue.text for cue in cues[2:]] == ["last"] * ("last" in rest)


@pytest.mark.parametrize("times", ["00:00:03,000 --> 00:00:05,000", "[00:00:03.000 --> 00:00:05.000]"])
def test_text_behind_the_times_is_the_cue_s_first_line(times: str) -> None:
    """As speech recognisers print it."""
    cues = parse_text(f"{times}  a: b\n{times} {{\\an8}}\nc\n{times} X1:1 Y1:2\nd\n", "subtitles")
    assert [(cue.text, cue.row) for cue in cues] == [("a: b", None), ("c", "top"), ("d", None)]


def test_times_without_hours_are_read_in_a_whole_file() -> None:
    text = "1\n00:00,500 --> 00:01,000\ngood\n\n2\n01:03,000 --> 01:05,250\nthen\n\n3\n61:00,000 --> 61:01,000\nlast\n"
    assert parse_text(text, "subtitles") == [FIRST, Cue(63_000, 65_250, "then"), Cue(3_660_000, 3_661_000, "last")]


ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:00.990 align:start position:0%
{blank}
Linus,<00:00:00.360><c> do</c><00:00:00.520><c> your</c>

00:00:00.990 --> 00:00:01.000 align:start position:0%
Linus, do your
{blank}

00:00:01.000 --> 00:00:01.900 align:start position:0%
Linus, do your
kids<00:00:01.300><c> think</c>
"""


@pytest.mark.parametrize("blank", [" ", "", "\t"])
def test_a_blank_line_does_not_end_a_cue_of_webvtt_before_its_text(blank: str) -> None:
    """YouTube pads its captions with a space; others leave an empty line."""
    cues = parse_text(ROLLING.replace("{blank}", blank), "subtitles")
    assert [cue.text for cue in cues] == ["Linus, do your", "Linus, do your", "Linus, do your\nkids think"]
    assert [(span.start_ms, span.end_ms) for span in cues[0].spans] == [(160, 360), (360, 520), (520, 990)]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("\nlate\n\n", ["late", "last"]),
        ("\nlate\nand more\n\nno text\n\n", ["late\nand more", "last"]),
        ("a\n \nb\n\nno text\n\nintro\n", ["a\n \nb", "last"]),
        ("\nNOTE a comment\n\n", ["last"]),
        ("\nSTYLE\n::cue { color: red }\n\n", ["last"]),
        ("\nintro\n", ["last"]),  # the name of the next cue
        ("3\n\n2\n", ["3", "last"]),
        ("2\n\nintro\n", ["2", "last"]),
        ("a\n", ["a", "last"]),
        ("NOTE to self\n\n", ["NOTE to self", "last"]),
    ],
)
def test_what_belongs_to_a_cue_of_webvtt(body: str, shown: list[str]) -> None:
    text = f"WEBVTT\n\n00:00.500 --> 00:01.000\n{body}00:02.000 --> 00:03.000\nlast\n"
    assert [cue.text for cue in parse_text(text, "subtitles")] == shown


def test_no_space_is_needed_before_the_settings_of_webvtt() -> None:
    text = "WEBVTT\n\n00:00.500 --> 00:01.000line:0 align:start\ngood\n"
    assert parse_text(text, "subtitles") == [Cue(500, 1000, "good", row="top")]


@pytest.mark.parametrize("line", ["#1", "2.", "(3)", "**12**", "1.000"])
def test_a_number_that_is_not_the_next_cue_s_is_text(line: str) -> None:
    text = f"7\n00:00:01,000 --> 00:00:02,000\na\n\n{line}\n\n8\n00:00:03,000 --> 00:00:04,000\nb\n"
    assert [cue.text for cue in parse_text(text, "subtitles")] == [f"a\n\n{line}", "b"]


def test_signs_and_hundreds_of_hours_are_read() -> None:
    text = "1\n-00:00:01,000 --> 00:00:02,000\na\n\n2\n100:00:03,000 --> 100:00:04,000\nb\n"
    hours = 100 * 3_600_000
    assert parse_text(text, "subtitles") == [Cue(-1000, 2000, "a"), Cue(hours + 3000, hours + 4000, "b")]


@pytest.mark.parametrize(
    "times",
    [
        "00:00:03:12 --> 00:00:05:00",
        "3 --> 5",
        "1.5 --> 3.0",
        "00:00:03,000 -->",
        "--> 00:00:05,000",
        "00:00:03,000 --> x",
        "-0:-0:-3,-500 --> -0:-0:-1,-500",
        "0:00:03,200.0000000000582 --> 00:00:05,000",
    ],
)
def test_times_that_cannot_be_understood_are_refused_by_line(times: str) -> None:
    with pytest.raises(AssetInvalid, match="subtitles: line 6 has no valid cue times"):
        parse_text(f"{GOOD}\n2\n{times}\nthen\n", "subtitles")


@pytest.mark.parametrize(
    "text", ["open from\n10:30 - 11:30", "see\n2 -> 3", "A --> B", "from 1:2 -> 2:3 on", "2:1 > 1:1", "1999"]
)
def test_what_only_resembles_times_is_text(text: str) -> None:
    end = "\n\n00:00:06,000 --> 00:00:07,000\nlast\n"
    assert [cue.text for cue in parse_text(f"00:00:00,500 --> 00:00:01,000\n{text}{end}", "subtitles")] == [
        text,
        "last",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('<FONT COLOR="#ff0">x</FONT>', "x"),
        ("<font color=red size='3'>x</font>", "x"),
        ('<b class="a">x</b>', "x"),
        ("<SPAN style='a: b'>x</SPAN><I>y</i>", "xy"),
        ("<c.red.bg_blue>x</c><v.loud Ana Maria>y</v><lang en-GB>z</lang>", "xyz"),
        ("a<br>b<BR/>c<br />d", "a\nb\nc\nd"),
        ("a &amp; b &lt;3 &quot;&#39;&#x2019;", "a & b <3 \"'’"),
        ("R&D AT&T &copy &nothing;", "R&D AT&T &copy &nothing;"),
        ("&lt;i&gt;x&lt;/i&gt;", "<i>x</i>"),
        ("a&nbsp;b", "a\xa0b"),
        ("if a <b and c> d = 1", "if a <b and c> d = 1"),
        ("one\\Ntwo \\Nthree", "one\ntwo \nthree"),  # of ASS
        ("C:\\New \\N", "C:\\New \\N"),
        ("<ruby>規制<rt>きせい</rt></ruby>する", "規制(きせい)する"),
        ("<ruby><rb>白</rb><rp>(</rp><rt>しろ</rt><rp>)</rp></ruby>い", "白(しろ)い"),
        ("<ruby>東<rt>とう京<rt>きょう</ruby>", "東(とう京)(きょう)"),
        ("x <00:00.700", "x"),
        ("I <3", "I <3"),
    ],
)
def test_tags_are_dropped_and_entities_decoded(text: str, shown: str) -> None:
    for head in ("1\n00:00:00,500 --> 00:00:01,000\n", "WEBVTT\n\n00:00.500 --> 00:01.000\n"):
        assert [cue.text for cue in parse_text(f"{head}{text}\n", "subtitles")] == [shown]


@pytest.mark.parametrize("body", [GOOD, "WEBVTT\n\n00:00,500 --> 00:01,000\ngood\n"], ids=["srt", "vtt"])
@pytest.mark.parametrize(
    ("before", "after"), [("", "```"), ("```srt\n", "```\n"), ("Here it is:\n\n```\n", "\n```\n\nHave fun!\n")]
)
def test_fences_of_language_models_and_their_words_are_dropped(body: str, before: str, after: str) -> None:
    assert parse_text(before + body + after, "subtitles") == [FIRST]


@pytest.mark.parametrize(
    ("tag", "row"),
    [("{\\an8}", "top"), ("{\\an5}", "middle"), ("{\\an1}", "bottom"), ("{\\i1\\an7}", "top"), ("{\\i1}", None)],
)
def test_rows_of_srt_are_kept(tag: str, row: str | None) -> None:
    assert [cue.row for cue in parse_text(GOOD.replace("good", f"{tag}good"), "subtitles")] == [row]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        *[("0", "top"), ("3", "top"), ("-1", "bottom"), ("-3,end", "bottom"), ("-17", "top"), ("9", "middle")],
        *[("0%", "top"), ("10.5%", "top"), ("50%,center", "middle"), ("90%", "bottom"), ("auto", None)],
    ],
)
def test_rows_of_webvtt_are_kept(line: str, row: str | None) -> None:
    text = f"WEBVTT\n\n00:00.500 --> 00:01.000 align:start line:{line} position:10%\nx\n"
    assert [cue.row for cue in parse_text(text, "subtitles")] == [row]
