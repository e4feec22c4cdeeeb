"""Breaks text into even lines that fit the width, and long cues into shorter ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from ffmpeg_ops.engine.subtitles.cue import Cue, Span

# Chinese, Japanese: a line may end between any two characters except those that must stay with a neighbour.
_HAN = (
    r"\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9d"
)
_NOT_AT_START = (
    "、。，．・：；？！）］｝〕〉》」』】〗〙ゝゞーァィゥェォッャュョヮヵヶぁぃぅぇぉっゃゅょゎゕゖ々…‥,.:;?!)]}”’％%～"
)
_NOT_AT_END = "（［｛〔〈《「『【〖〘([{“‘￥$"
_MAY_BREAK = re.compile(
    rf"(?<=[{_HAN}\uff00-\uffef\u3000-\u303f])(?=\S)|(?<=\S)(?=[{_HAN}\U00020000-\U0003ffff])|\u200b"
)
# Thai, Lao, Khmer, Burmese: words are not separated, and finding them takes a dictionary. A line may begin with a vowel
# that begins a syllable; lines are broken there only when nothing else fits.
_NO_SPACES = re.compile(
    rf"[{_HAN}\u3000-\u303f\uff00-\uffef\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff]"
)
# Other vowels, and signs that repeat or shorten a word, never open a line, although Unicode calls them letters.
_LEADS = "\u0e40-\u0e44\u0ec0-\u0ec4"
_OPENS_SYLLABLE = re.compile(rf"(?<=.{{2}})(?<![{_LEADS}])(?=[{_LEADS}])|(?<=[-/])(?=.)")
_WANTS_LETTER = re.compile(rf"(?:[{_LEADS}]|[\u0e31\u0e47\u0eb1\u0ebb][\u0e48-\u0e4b\u0ec8-\u0ecb]?)$")
_FOLLOWS = frozenset("\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eaf\u0eb0\u0eb2\u0eb3\u0ebd\u0ec6")
_SILENT = "\u0e4c"  # the letter that carries it belongs to the previous word

_ROW_END = re.compile("[\n\u2028\u2029]")
# A line may end at any blank but these, one before punctuation that stands alone, as in French, and one inside «  ».
_NO_BREAK = "\xa0\u2007\u202f"
_CHUNK = re.compile(rf"(?:[^\s\u200b]|[{_NO_BREAK}]|\ (?=[!?:;»%€]+(?:\s|$))|(?<=«)\ )+")
_AFTER_NO_BREAK = re.compile(rf"(?<=[{_NO_BREAK}])(?=.)")

Measure = Callable[[str], float]


@dataclass(frozen=True)
class Word:
    """A piece of a line that is never broken."""

    #: What is shown.
    text: str
    #: Whether a space precedes it.
    spaced: bool
    #: When it begins to be spoken, in milliseconds of the video.
    start_ms: int
    #: When it has been spoken.
    end_ms: int
    #: The author's line that it is a part of.
    row: str


Line = tuple[Word, ...]


@dataclass(frozen=True)
class Limit:
    """How long a line may be."""

    #: Maximum width, in the unit of `measure`.
    width: float
    #: Maximum length in columns; see `columns`.
    characters: int
    #: The width of a text.
    measure: Measure

    def excess(self, text: str) -> float:
        """The share of a line that `text` fills; above 1 it is too long."""
        return max(self.measure(text) / self.width, columns(text) / self.characters)


def is_spaceless(char: str) -> bool:
    """Whether the script of `char` is written without spaces between words."""
    return bool(_NO_SPACES.match(char))


def columns(text: str) -> int:
    """Length in characters as counted for subtitles: wide ones count twice, combining marks not at all."""
    return sum(_columns_of(char) for char in text)


def clusters(text: str) -> list[str]:
    """Text in pieces that must stay together: a letter with its marks and vowels, an emoji with its modifiers."""
    found: list[str] = []
    for char in text:
        joins = found and (
            unicodedata.category(char) in {"Mn", "Me", "Mc", "Cf"} or "\U0001f3fb" <= char <= "\U0001f3ff"
        )
        pair = found and _is_flag(char) and len(found[-1]) == 1 and _is_flag(found[-1])
        vowel = found and (char in _FOLLOWS or (_WANTS_LETTER.search(found[-1]) and char.isalpha()))
        if joins or pair or vowel or (found and found[-1].endswith("\u200d")):
            found[-1] += char
            if char == _SILENT and len(found) > 1:
                found[-2:] = ["".join(found[-2:])]
        else:
            found.append(char)
    return found


def lay_out(cue: Cue, limit: Limit, *, upper_case: bool = False) -> list[Line]:
    """The cue's lines. The author's own line breaks are kept."""
    lines: list[Line] = []
    at = 0
    for row in _ROW_END.split(cue.text):
        spoken = _words(cue, row, at)
        if upper_case:
            spoken = (replace(word, text=word.text.upper()) for word in spoken)
        words = [part for word in spoken for part in _cut(word, limit)]
        lines += _even(words, limit) if words else []
        at += len(row) + 1
    return lines


def in_parts(cue: Cue, lines: Sequence[Line], max_lines: int) -> Iterator[tuple[Cue, Sequence[Line]]]:
    """The cue itself, or consecutive ones of at most `max_lines` lines each."""
    count = -(-len(lines) // max_lines)
    edges = [round(i * len(lines) / count) for i in range(count + 1)]
    parts = [lines[a:b] for a, b in pairwise(edges)]
    starts = [cue.start_ms, *(part[0][0].start_ms for part in parts[1:])]
    ends = [*starts[1:], cue.end_ms]
    for part, start, end in zip(parts, starts, ends, strict=True):
        yield replace(cue, start_ms=start, end_ms=end), part


def _words(cue: Cue, row: str, offset: int) -> Iterator[Word]:
    for chunk in _CHUNK.finditer(row):
        begin, text = chunk.start(), re.sub(rf"[ {_NO_BREAK}]", "\xa0", chunk[0])  # few fonts have the others
        if text.isspace():
            continue
        edges = [0, *_breaks(text), len(text)]
        for a, b in pairwise(edges):
            start, end = offset + begin + a, offset + begin + b
            spaced = a == 0 and begin > 0 and row[begin - 1] != "\u200b"
            yield Word(text[a:b], spaced, _time(cue, start, last=False), _time(cue, end, last=True), row)


def _breaks(chunk: str) -> list[int]:
    places = (match.start() for match in _MAY_BREAK.finditer(chunk))
    return [
        at
        for at in places
        if 0 < at < len(chunk)
        and chunk[at] not in _NOT_AT_START
        and chunk[at - 1] not in _NOT_AT_END
        and unicodedata.category(chunk[at]) not in {"Mn", "Me", "Cf"}
    ]


def _time(cue: Cue, at: int, *, last: bool) -> int:
    """When the text before (`last`) or after index `at` is spoken; inside a span, in proportion."""
    spans = cue.spans or (Span(0, len(cue.text), cue.start_ms, cue.end_ms),)
    for span in spans:
        if span.begin < at <= span.end if last else span.begin <= at < span.end:
            share = (at - span.begin) / (span.end - span.begin)
            return span.start_ms + round(share * (span.end_ms - span.start_ms))
    return next((span.start_ms for span in spans if span.begin >= at), cue.end_ms)


def _cut(word: Word, limit: Limit) -> list[Word]:
    """The word itself, or, when it is too long for a line, as few pieces of it as possible."""
    if limit.excess(word.text) <= 1:
        return [word]
    parts = [part for text in _AFTER_NO_BREAK.split(word.text) for part in _OPENS_SYLLABLE.split(text)]
    pieces = [piece for part in parts for piece in ([part] if limit.excess(part) <= 1 else clusters(part))]
    packed = [""]
    for piece in pieces:
        if packed[-1] and limit.excess(packed[-1] + piece) > 1:
            packed.append("")
        packed[-1] += piece
    cue = Cue(word.start_ms, word.end_ms, word.text)
    parts_found: list[Word] = []
    end = 0
    for text in packed:
        begin, end = end, end + len(text)
        start_ms, end_ms = _time(cue, begin, last=False), _time(cue, end, last=True)
        parts_found.append(Word(text, word.spaced and not begin, start_ms, end_ms, word.row))
    return parts_found


def _even(words: Sequence[Word], limit: Limit) -> list[Line]:
    """The words in as few lines as possible, broken as evenly as possible."""
    filled = _fill(words, limit)
    if filled(0, len(words)) <= 1:
        return [tuple(words)]
    best: list[tuple[int, float]] = [(0, 0.0)]
    came_from = [0]
    for end in range(1, len(words) + 1):
        options = []
        for begin in range(end - 1, -1, -1):
            share = filled(begin, end)
            if share > 1 and begin < end - 1:
                break
            lines, cost = best[begin]
            options.append((lines + 1, cost + (1 - share) ** 2, begin))
        *found, begin = min(options)
        best.append((int(found[0]), found[1]))
        came_from.append(int(begin))
    lines_found: list[Line] = []
    end = len(words)
    while end:
        lines_found.append(tuple(words[came_from[end] : end]))
        end = came_from[end]
    return lines_found[::-1]


def _fill(words: Sequence[Word], limit: Limit) -> Callable[[int, int], float]:
    """A function that returns the share of a line that words `begin` to before `end` fill; above 1 it is too long."""
    space = limit.measure(" ")
    widths = [0.0, *accumulate(limit.measure(word.text) + space * word.spaced for word in words)]
    lengths = [0, *accumulate(columns(word.text) + word.spaced for word in words)]

    def filled(begin: int, end: int) -> float:
        width = widths[end] - widths[begin] - space * words[begin].spaced
        length = lengths[end] - lengths[begin] - words[begin].spaced
        return max(width / limit.width, length / limit.characters)

    return filled


def _columns_of(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def _is_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
