"""Groups spoken words into readable cues, by pauses, sentences and length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffmpeg_ops.engine.subtitles.cue import Cue, Span
from ffmpeg_ops.engine.subtitles.lines import is_spaceless
from wire.errors import AssetInvalid

PAUSE_MS = 700  # a longer silence ends a caption
STAYS_MS = 300  # how long a caption stays after its last word
MAX_MS = 7000  # how long a caption may last
_MAX_WORD_S = 10  # no word lasts longer
_LETTER_S = 0.06  # how long a letter is spoken, where nothing else says how long a word lasts
_CLOSING = re.compile(r"[.,!?;:…%)\]}»”’。、，．！？；：）］」』】؟،؛।]+\Z")
_OPENING = re.compile(r"[(\[{«“‘¿¡$£]+\Z")
_CONTROL = re.compile(r"\[_[A-Z]+_\d*\]")  # tokens of whisper.cpp that are no words
_ENDS_SENTENCE = re.compile(r"[.!?…。！？؟।][\"'”’»)\]」』]*\Z")


def to_cues(words: Sequence[Mapping[str, Any]], name: str) -> list[Cue]:
    """Group param `name`, a list of `{word, start, end}`, into cues. Raises AssetInvalid when no word has text."""
    with_text = (word for word in words if word["word"].strip() and not _CONTROL.fullmatch(word["word"].strip()))
    spoken = _spoken(sorted(with_text, key=lambda word: word["start"]))
    if not spoken:
        raise AssetInvalid(f"{name}: the words contain no text.")
    groups = list(_groups(spoken))
    nexts = [group[0].start_ms for group in groups[1:]]
    return [_cue(group, until) for group, until in zip(groups, [*nexts, None], strict=True)]


def in_seconds(
    words: Sequence[Mapping[str, Any]], length_s: float, warn: Callable[[str], object]
) -> list[dict[str, Any]]:
    """The words with times in seconds. Whole numbers that go past the video are taken for milliseconds if these fit."""
    times = [time for word in words for key in ("start", "end") if (time := word.get(key)) is not None]
    lasting = sorted(word["end"] - word["start"] for word in words if _is_timed(word)) or [0]
    long = lasting[len(lasting) // 2] > _MAX_WORD_S or (len(words) > 1 and min(times) > length_s)
    if not (
        all(float(time).is_integer() for time in times) and length_s < max(times) <= 1000 * (length_s + 1) and long
    ):
        return [dict(word) for word in words]
    warn("the times of the words are milliseconds, not seconds; they were divided by 1000")
    return [
        {key: value / 1000 if key in {"start", "end"} and value is not None else value for key, value in word.items()}
        for word in words
    ]


def with_times(words: Sequence[Mapping[str, Any]], warn: Callable[[str], object]) -> list[dict[str, Any]]:
    """The words, of which those without times are given what their neighbours leave, in proportion to their length.

    Forced alignment finds no times for numbers and signs. At least one word has a time.
    """
    found = [{key: value for key, value in word.items() if value is not None} for word in words]
    if count := sum(not _is_timed(word) for word in words):
        warn(f"{count} of {len(words)} words have no start or no end; they were given times between their neighbours")
    before: float | None = None
    for word, (after, letters) in zip(found, _ahead(found), strict=True):
        if "start" not in word:
            guess = before if before is not None else max(0.0, (after or 0.0) - _LETTER_S * letters)
            word["start"] = min(guess, word.get("end", guess))
        if "end" not in word:
            length, room = len(word["word"]), None if after is None else max(0.0, after - word["start"])
            word["end"] = word["start"] + (_LETTER_S * length if room is None else room * length / letters)
        before = word["end"]
    return found


def _ahead(words: Sequence[Mapping[str, Any]]) -> list[tuple[float | None, int]]:
    """For each word, the next known time from its end on, and how many letters are spoken from its start until then."""
    found: list[tuple[float | None, int]] = []
    after, letters = None, 0
    for word in reversed(words):
        letters += len(word["word"])
        if "end" in word:
            after, letters = word["end"], len(word["word"])
        found.append((after, letters))
        if "start" in word:
            after, letters = word["start"], 0
    return found[::-1]


def _is_timed(word: Mapping[str, Any]) -> bool:
    return word.get("start") is not None and word.get("end") is not None


@dataclass(frozen=True)
class _Spoken:
    """A word, or a part of one, with its times in milliseconds."""

    text: str
    start_ms: int
    end_ms: int
    #: Whether it follows the previous one without a space.
    glued: bool


def _spoken(words: Sequence[Mapping[str, Any]]) -> list[_Spoken]:
    """Speech recognisers write the space before a word as part of it; if any word has one, the others are glued."""
    led = any(word["word"][0].isspace() for word in words[1:])
    found: list[_Spoken] = []
    for word in words:
        text = re.sub(r"[ \t\r\n]+", " ", word["word"]).strip()
        previous = found[-1].text if found else ""
        glued = bool(previous) and (
            (led and not word["word"][0].isspace())
            or (bool(_CLOSING.match(text)) and not (led and word["word"][0].isspace()))
            or (bool(_OPENING.search(previous)) and not led)
            or (is_spaceless(previous[-1]) and is_spaceless(text[0]))
        )
        found.append(_Spoken(text, round(word["start"] * 1000), round(word["end"] * 1000), glued))
    return found


def _groups(words: Sequence[_Spoken]) -> Iterator[list[_Spoken]]:
    group: list[_Spoken] = []
    for word in words:
        if group and _ends_before(group, word):
            yield group
            group = []
        group.append(word)
    yield group


def _ends_before(group: list[_Spoken], word: _Spoken) -> bool:
    last = group[-1]
    if word.start_ms - last.end_ms > PAUSE_MS and not _CLOSING.match(word.text):
        return True
    if word.glued and not is_spaceless(word.text[0]):
        return word.end_ms - group[0].start_ms > 2 * MAX_MS
    return bool(_ENDS_SENTENCE.search(last.text)) or word.end_ms - group[0].start_ms > MAX_MS


def _cue(words: list[_Spoken], until_ms: int | None) -> Cue:
    text, spans = "", []
    for word in words:
        text += word.text if word.glued or not text else f" {word.text}"
        spans.append(Span(len(text) - len(word.text), len(text), word.start_ms, word.end_ms))
    end_ms = max(word.end_ms for word in words) + STAYS_MS
    end_ms = end_ms if until_ms is None else min(end_ms, until_ms)
    return Cue(words[0].start_ms, max(end_ms, words[0].start_ms + 1), text, tuple(spans))
