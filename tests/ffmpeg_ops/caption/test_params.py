"""Valid and invalid params, and the messages for invalid ones."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from ffmpeg_ops.caption import CaptionParams
from ffmpeg_ops.engine.subtitles.params import MAX_SUBTITLES
from ffmpeg_ops.engine.subtitles.style import PRESETS, StyleParams, look

URL = {"url_video": "https://example.com/v.mp4"}
WORD = {"word": "a", "start": 0, "end": 1}
ONE_OF: dict[str, Any] = {"url_srt": "https://example.com/s.srt", "subtitles": "WEBVTT", "words": [WORD]}


def refused(**params: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        CaptionParams().load({**URL, **params})
    return caught.value.normalized_messages()  # type: ignore[no-any-return, no-untyped-call]


def test_exactly_one_source_is_accepted() -> None:
    for name, value in ONE_OF.items():
        assert CaptionParams().load({**URL, name: value})[name] == value
    assert refused() == {"url_srt": ["Give exactly one of url_srt, subtitles, words, not none."]}
    for names in (("url_srt", "words"), ("subtitles", "words"), ("url_srt", "subtitles", "words")):
        said = refused(**{name: ONE_OF[name] for name in names})
        assert set(said) == set(names)
        assert all(" and ".join(names) in said[name][0] for name in names)


@pytest.mark.parametrize(
    "word",
    [*({"word": word, "start": start, "end": 1} for word, start in (("a", 2), ("", 0), ("a", -1))), {"start": 1}],
)
def test_words_need_text_and_times_in_order(word: dict[str, Any]) -> None:
    assert list(refused(words=[WORD, word])["words"]) == [1]


def test_one_word_needs_a_time() -> None:
    bare = [{"word": "a"}, {"word": "b", "start": None, "end": None}]
    assert refused(words=bare) == {"words": ["No word has a time."]}
    assert len(CaptionParams().load({**URL, "words": [*bare, {"word": "c", "end": 2}]})["words"]) == 3


def test_inline_text_has_a_limit() -> None:
    assert "subtitles" in refused(subtitles="x" * (MAX_SUBTITLES + 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("color", value) for value in ("red", "#FFF", "#12345G", "#1234567", "&H00FF&", 5)),
        *(("box", value) for value in ("yes", "#FFF", True)),
        *(("font", value) for value in ("A,B", "A{\\b1}", "A\nStyle: x", "a" * 65, "../x", "A:bold", "@A", "A\x00")),
        *(("size", value) for value in (0, 0.5, -1, "big", float("nan"))),
        *(("position", value) for value in ("center", "bottom", 2)),
        *(("line_length", value) for value in (3, 101, 4.5)),
        *(("preset", value) for value in ("Pop", 2)),
        *(("highlight", value) for value in ("yes", True)),
        ("margin_y", 0.9),
        ("colour", "#FFFFFF"),
    ],
)
def test_invalid_styles_are_refused_by_name(field: str, value: Any) -> None:
    assert list(refused(subtitles="x", style={field: value})["style"]) == [field]


@pytest.mark.parametrize("font", ["Noto Sans CJK JP", "DejaVu Sans", "Ubuntu-R", "源ノ角ゴシック", "Font 2.0"])
def test_names_of_fonts_are_taken(font: str) -> None:
    assert StyleParams().load({"font": font})["font"] == font


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (640, 360), (1080, 1350), (1080, 1080), (64, 48), (2, 2)])
def test_sizes_follow_the_frame(preset: str, size: tuple[int, int]) -> None:
    small = look(StyleParams().load({"preset": preset}), *size)
    large = look(StyleParams().load({"preset": preset}), 2 * size[0], 2 * size[1])
    assert large.size == pytest.approx(2 * small.size, abs=0.2)
    assert large.margin_x == pytest.approx(2 * small.margin_x, abs=1)
    assert small.line_width > 0 and small.max_lines >= 1


def test_a_given_size_is_a_share_of_the_height() -> None:
    for width, height in [(1920, 1080), (1080, 1920)]:
        assert look({"size": 0.05}, width, height).size == pytest.approx(0.05 * height)


def test_fields_change_the_preset_and_nothing_else() -> None:
    plain, changed = (look({"preset": "pop", **more}, 1920, 1080) for more in ({}, {"upper_case": False}))
    assert (plain.upper_case, changed.upper_case) == (True, False)
    assert plain.size == changed.size
