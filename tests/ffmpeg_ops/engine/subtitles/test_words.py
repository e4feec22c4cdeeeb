"""When each word is spoken, and how words become captions and lines."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffmpeg_ops.engine.subtitles.cue import Cue, Span
from ffmpeg_ops.engine.subtitles.lines import Limit, Word, clusters, columns, in_parts, lay_out
from ffmpeg_ops.engine.subtitles.parse import parse_text
from ffmpeg_ops.engine.subtitles.words import in_seconds, to_cues, with_times
from wire.errors import AssetInvalid

WIDE = Limit(1000, 100, columns)


def lines_of(text: str, width: int = 20, **more: bool) -> list[str]:
    found = lay_out(Cue(0, 1000, text), Limit(width, 100, columns), **more)
    return ["".join(" " * (word.spaced and i > 0) + word.text for i, word in enumerate(line)) for line in found]


def times_of(cue: Cue) -> list[tuple[str, int, int]]:
    return [(word.text, word.start_ms, word.end_ms) for line in lay_out(cue, WIDE) for word in line]


# --- times -----------------------------------------------------------------------------------------------------------

KARAOKE = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n\n[Events]\nDialogue: 0,0:00:01.00,0:00:03.00,D,,0,0,0,,{}\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"{\k50}One {\k100}two", [("One", 1000, 1500), ("two", 1500, 2500)]),
        (r"{\kf50}One{\k20} {\K30}two", [("One", 1000, 1500), ("two", 1700, 2000)]),
        (r"{\an8\ko10}Hel{\k20\b1}lo {\k30}you", [("Hello", 1000, 1300), ("you", 1300, 1600)]),
        (r"{\k999}One {\k50}two", [("One", 1000, 3000), ("two", 3000, 3000)]),
    ],
)
def test_times_of_ass_are_in_its_syllables(text: str, words: list[tuple[str, int, int]]) -> None:
    (cue,) = parse_text(KARAOKE.format(text), "subtitles")
    assert times_of(cue) == words


def test_times_of_webvtt_are_in_its_timestamps() -> None:
    vtt = "WEBVTT\n\n00:01.000 --> 00:03.000\nOne <00:01.500><c>two</c> <00:00:02.250>three\nfour\n"
    (cue,) = parse_text(vtt, "subtitles")
    words = times_of(cue)
    assert words[:2] == [("One", 1000, 1500), ("two", 1500, 2250)]
    assert words[2][:2] == ("three", 2250) and words[3][::2] == ("four", 3000) and words[2][2] <= words[3][1]


def test_without_word_times_the_cue_s_time_is_divided_by_length() -> None:
    words = [("a", 0, 91), ("bb", 182, 364), ("cccc", 455, 818), ("d", 909, 1000)]
    assert times_of(Cue(0, 1000, "a bb cccc d")) == words


def test_words_of_a_list_keep_their_times() -> None:
    (cue,) = to_cues([{"word": " One", "start": 0.5, "end": 0.75}, {"word": "two.", "start": 1, "end": 1.5}], "words")
    assert (cue.start_ms, cue.end_ms, cue.text) == (500, 1800, "One two.")
    assert times_of(cue) == [("One", 500, 750), ("two.", 1000, 1500)]
    with pytest.raises(AssetInvalid, match="words"):
        to_cues([{"word": " ", "start": 0, "end": 1}], "words")


# --- grouping --------------------------------------------------------------------------------------------------------


def spoken(text: str, *pauses_before: int) -> list[str]:
    now, words = 0.0, []
    for i, word in enumerate(text.split()):
        now += 2 if i in pauses_before else 0
        words.append({"word": word, "start": now, "end": now + 0.3})
        now += 0.4
    return [cue.text for cue in to_cues(words, "words")]


def test_words_are_grouped_by_sentences_pauses_and_length() -> None:
    assert spoken("Hi there. How are you? Fine") == ["Hi there.", "How are you?", "Fine"]
    assert spoken("one two three four", 2) == ["one two", "three four"]
    assert [len(text.split()) for text in spoken("word " * 40)] == [17, 17, 6]
    assert spoken("你 好 世界") == ["你好世界"]
    assert spoken("안녕 세계") == ["안녕 세계"]


def test_captions_never_overlap_and_words_may_come_in_any_order() -> None:
    words = [{"word": w, "start": s, "end": s + 1} for w, s in [("c.", 4), ("a.", 0), ("b.", 1)]]
    cues = to_cues(words, "words")
    assert [cue.text for cue in cues] == ["a.", "b.", "c."]
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(cues))


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("exactly twenty chars", 20, ["exactly twenty chars"]),
        ("- Hi!\n- Hello you!", 20, ["- Hi!", "- Hello you!"]),
        ("aaaa bbbb cccc dddd eeee", 20, ["aaaa bbbb", "cccc dddd eeee"]),
        ("one two three four five six", 20, ["one two three", "four five six"]),
        ("a supercalifragilistic b", 12, ["a", "supercalifra", "gilistic b"]),
        ("well-known hyphenations", 14, ["well-known", "hyphenations"]),
        ("안녕하세요 세계 자막", 12, ["안녕하세요", "세계 자막"]),
        ("สวัสดี ชาวโลก", 8, ["สวัสดี", "ชาวโลก"]),
    ],
)
def test_lines_are_even_and_words_whole_where_they_fit(text: str, width: int, lines: list[str]) -> None:
    assert lines_of(text, width) == lines


def test_chinese_breaks_anywhere_except_before_closing_marks() -> None:
    lines = lines_of("你好，世界！这是一个字幕测试，看看长句子。", 10)
    assert len(lines) > 3 and all(columns(line) <= 10 for line in lines)
    assert not any(line[0] in "，。！" for line in lines)


THAI = "สวัสดีครับวันนี้เราจะมาทดสอบการตัดบรรทัดของข้อความภาษาไทยที่ยาวมากๆโดยไม่มีช่องว่างเลยทุกวันศุกร์น้ำแข็ง"


def test_thai_is_never_broken_inside_a_syllable() -> None:
    broken = [lines_of(THAI, width) for width in range(4, 40)]
    for width, lines in enumerate(broken, 4):
        assert "".join(lines) == THAI and all(columns(line) <= width for line in lines)
    for before, after in (pair for lines in broken for pair in pairwise(lines)):
        assert after[0] not in "ะัาำิีึืุูๅ็่้๊๋์ๆฯ", "a mark never begins a line"
        assert before[-1] not in "เแโใไั็", "a leading vowel never ends one"
        assert "์" not in after[1:2], "a silent letter belongs to the word before"


def test_upper_case_is_applied_before_lines_are_measured() -> None:
    assert lines_of("straße straße", 14, upper_case=True) == ["STRASSE", "STRASSE"]


def test_long_cues_are_shown_in_parts_one_after_the_other() -> None:
    cue = Cue(0, 4000, "aaaa bbbb cccc dddd")
    lines = lay_out(cue, Limit(4, 99, columns))
    parts = list(in_parts(cue, lines, 2))
    assert [[word.text for line in part for word in line] for _, part in parts] == [["aaaa", "bbbb"], ["cccc", "dddd"]]
    assert (parts[0][0].start_ms, parts[1][0].end_ms) == (0, 4000)
    assert parts[0][0].end_ms == parts[1][0].start_ms == lines[2][0].start_ms


def test_clusters_stay_together() -> None:
    for text in ("เก", "มา", "น้ำ", "วัน", "แข็ง", "กร์", "👍🏽", "👨‍👩‍👧", "🇧🇷", "é", "ที่", "न्"):
        assert len(clusters(text)) == 1


@given(
    st.text(st.sampled_from("ab é\n你，好。ไ่ท😀👍🏽\u200b\u200dم-"), max_size=60),
    st.integers(1, 15),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20), st.integers(0, 900)), max_size=3),
)
def test_nothing_is_lost_and_times_stay_inside_the_cue(
    text: str, width: int, marks: list[tuple[int, int, int]]
) -> None:
    spans = tuple(Span(a, a + n, ms, ms + 50) for a, n, ms in marks if a + n <= len(text))
    lines = lay_out(Cue(0, 1000, text, spans), Limit(width, 40, columns))
    words: list[Word] = [word for line in lines for word in line]
    assert "".join(word.text for word in words) == "".join(text.replace("\u200b", "").split())
    assert all(0 <= word.start_ms <= 1000 and 0 <= word.end_ms <= 1000 for word in words)


# --- as speech recognisers write words -------------------------------------------------------------------------------


def listed(*texts: str, step: float = 0.2) -> list[dict[str, Any]]:
    return [{"word": text, "start": i * step, "end": (i + 1) * step} for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ((" I", "'m", " like", "-minded", ",", " too"), "I'm like-minded, too"),
        (("Well", ",", "then", "…", "yes", "!"), "Well, then… yes!"),
        ((" Ça", " !"), "Ça !"),
        (("I", "am"), "I am"),
        ((" One", "two"), "One two"),
        (("你", "好", "，", "世界"), "你好，世界"),
        (("\n One", " two"), "One two"),
    ],
)
def test_spaces_are_those_of_the_words(texts: tuple[str, ...], shown: str) -> None:
    assert " ".join(cue.text for cue in to_cues(listed(*texts), "words")) == shown


def test_no_caption_begins_with_a_part_of_a_word() -> None:
    cues = to_cues(listed(" It", *[" was"] * 4, " mind", "-blowing", ".", " So", step=1.2), "words")
    assert [cue.text for cue in cues] == ["It was was was was", "mind-blowing.", "So"]


def test_milliseconds_are_recognised() -> None:
    words = [{"word": "One", "start": 0, "end": 240}, {"word": "two", "start": 240, "end": 700}]
    warnings: list[str] = []
    assert [word["end"] for word in in_seconds(words, 8.0, warnings.append)] == [0.24, 0.7]
    assert len(warnings) == 1 and "milliseconds" in warnings[0]


@pytest.mark.parametrize(
    ("words", "length_s"),
    [
        ([{"word": "a", "start": 0, "end": 1}, {"word": "b", "start": 1, "end": 2}], 8.0),
        ([{"word": "a", "start": 0, "end": 1}, {"word": "b", "start": 9, "end": 10}], 8.0),
        ([{"word": "a", "start": 0, "end": 240.5}], 8.0),
        ([{"word": "a", "start": 9000, "end": 20_000}], 8.0),
        ([{"word": "a", "start": 0, "end": 240}], 300.0),
    ],
)
def test_seconds_are_not_taken_for_milliseconds(words: list[dict[str, Any]], length_s: float) -> None:
    assert in_seconds(words, length_s, pytest.fail) == words


def bare(word: str, start: float | None = None, end: float | None = None) -> dict[str, Any]:
    return {"word": word, "start": start, "end": end}


@pytest.mark.parametrize(
    ("words", "times"),
    [
        ([bare("in", 1, 2), bare("2016"), bare("and", 4, 5)], [(1, 2), (2, 4), (4, 5)]),
        ([bare("in", 1, 2), bare("100"), bare("%"), bare("of", 6, 7)], [(1, 2), (2, 5), (5, 6), (6, 7)]),
        ([bare("2016"), bare("was", 2, 3)], [(1.76, 2), (2, 3)]),
        ([bare("2016"), bare("was", 0.1, 3)], [(0, 0.1), (0.1, 3)]),
        ([bare("in", 1, 2), bare("2016")], [(1, 2), (2, 2.24)]),
        ([bare("in", 1, 2), bare("a", 3), bare("b", None, 5), bare("c", 6)], [(1, 2), (3, 4), (4, 5), (6, 6.06)]),
        ([bare("in", 1, 4), bare("2016"), bare("and", 3, 5)], [(1, 4), (4, 4), (3, 5)]),
        ([bare("in", 1, 4), bare("2016", None, 3)], [(1, 4), (3, 3)]),
    ],
)
def test_words_without_times_get_those_between_their_neighbours(
    words: list[dict[str, Any]], times: list[tuple[float, float]]
) -> None:
    warnings: list[str] = []
    found = [value for word in with_times(words, warnings.append) for value in (word["start"], word["end"])]
    assert found == pytest.approx([time for pair in times for time in pair])
    assert len(warnings) == 1 and f" of {len(words)} words have no start or no end" in warnings[0]
    timed = [{"word": "a", "start": 0, "end": 1}]
    assert with_times(timed, pytest.fail) == timed


def test_milliseconds_are_recognised_where_words_lack_times() -> None:
    words = [bare("a", 240, 700), bare("2016"), {"word": "b", "start": 2000, "end": 2600}, bare("c", 3000)]
    found = in_seconds(words, 8.0, lambda _: None)
    assert [word.get("start") for word in found] == [0.24, None, 2.0, 3.0]


@given(
    words=st.lists(
        st.builds(bare, st.text("ab1", min_size=1), *[st.none() | st.floats(0, 9)] * 2), min_size=1, max_size=8
    ).filter(lambda words: any(word["start"] is not None or word["end"] is not None for word in words))
)
def test_every_word_gets_a_time(words: list[dict[str, Any]]) -> None:
    for word in words:
        if None not in (word["start"], word["end"]):
            word["end"] = max(word["start"], word["end"])
    for before, after in zip(words, with_times(words, lambda _: None), strict=True):
        assert 0 <= after["start"] <= after["end"] < 20
        assert all(before[key] in (None, after[key]) for key in ("word", "start", "end"))


def test_control_tokens_of_whisper_are_no_words() -> None:
    words = [{"word": word, "start": 0.1 * i, "end": 0.1 * i} for i, word in enumerate(["[_BEG_]", " Hi", "[_TT_150]"])]
    assert [cue.text for cue in to_cues(words, "words")] == ["Hi"]
    words = [{"word": word, "start": 0, "end": 1} for word in ("[music]", "[A_B]")]
    assert [cue.text for cue in to_cues(words, "words")] == ["[music] [A_B]"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["costs", "$", "64", "or", "£", "9", "."], "costs $64 or £9."),
        (["said", "“", "no", "”"], "said “no”"),
        (["¿", "Qué", "?"], "¿Qué?"),
        ([" a", " (", " b"], "a ( b"),  # leading spaces decide
    ],
)
def test_opening_signs_cling_to_the_word_behind(words: list[str], text: str) -> None:
    spoken = [{"word": word, "start": 0.1 * i, "end": 0.1 * i + 0.1} for i, word in enumerate(words)]
    assert " ".join(cue.text for cue in to_cues(spoken, "words")) == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("custa 10\xa0000\xa0€ hoje", ["custa", "10\xa0000\xa0€", "hoje"]),
        ("vale 10\u202f000\u202f€ sim", ["vale", "10\xa0000\xa0€", "sim"]),
        ("mais oui ça ! alors", ["mais oui", "ça\xa0! alors"]),
        ("il dit « ouah » et puis", ["il dit", "«\xa0ouah\xa0»", "et puis"]),
    ],
)
def test_no_line_ends_at_a_space_that_holds_together(text: str, lines: list[str]) -> None:
    assert lines_of(text, 11) == lines


def test_words_held_together_are_broken_where_they_do_not_fit() -> None:
    assert lines_of("um\xa0dois\xa0tres\xa0quatro", 8) == ["um\xa0dois\xa0", "tres\xa0", "quatro"]
