"""Reads SRT and WebVTT, also as people and language models write them."""

from __future__ import annotations

import html
import html.entities
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ffmpeg_ops.engine.subtitles.cue import Cue, Row, timed

_CLOCK = r"[-−]?\s?\d{1,6}(?:\s?[:：.,，]\s?\d{1,9}){1,4}"
_ARROW = r"(?:[-–—−]{0,3}\s?(?:>|&gt;)|=>|→)"
_TIMES = re.compile(
    rf"\s*(?P<bracket>\[)?(?P<start>{_CLOCK})\s*(?P<arrow>{_ARROW}|[-–—−]+)\s*(?P<end>{_CLOCK})"
    r"(?(bracket)\]|(?=\s|$|[A-Za-z]))(?P<rest>.*)$"
)
_LOOKS_TIMED = re.compile(rf"\s*\[?{_CLOCK}\s*--?>|\s*--?>\s*{_CLOCK}|[\d\s.,:;-]*\d\s*-->[\s-]*\d[\d\s.,:;-]*$")
_PARTS = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+)(?:[.,](\d+)|:(\d{3}))?")
_STANDARD_ARROW = re.compile(r"--\s?(?:>|&gt;)")
_NUMBER = re.compile(r"\s*(\d+)\s*$")
_ADORNED = re.compile(r"\s*[#*_(\[]{0,3}(\d{1,9})[.:*_)\]]{0,3}\s*$")  # as language models write it
_SETTINGS = re.compile(r"(?:\s*[A-Za-z]\w*:\S*(?:\s+[A-Za-z]\w*:\S*)*)?\s*$")  # of WebVTT, and coordinates of SRT
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069"))
# No pattern may look past the next bracket of its kind, or a file of brackets alone would take quadratic time.
_MARKUP = re.compile(
    r"<(?:(?P<hours>\d{1,4}):)?(?P<minutes>\d{1,2}):(?P<seconds>\d{2})[.,](?P<millis>\d{3})>"  # when a word is spoken
    r"|(?P<br><br[ \t]*/?>|(?<=[^:\\])(?-i:\\N)(?=.))"  # ASS's line break is left over where a script became SRT
    r"|<rp>[^<>\n]{0,9}</rp>|<rt>(?P<reading>[^<>\n]{1,99})(?:</rt>)?"  # of ruby
    r"|</?[a-z][a-z0-9]*(?:\.[^\s<>]*)?[ \t]*/?>|<[a-z][a-z0-9]*[ \t]+[a-z:-]+[ \t]*=[^<>\n]*>"
    r"|<(?:v|c|lang)(?:\.[^\s<>]*)?[ \t][^<>\n]*>|<\d[\d:.,]*>|<\d+:[\d:.,]*(?=\s*\Z)"
    r"|\{\\[^{}\n]*\}",  # not in any SRT standard, but players accept it
    re.IGNORECASE,
)
_NO_CUE = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_ALIGNED = re.compile(r"\\an([1-9])")
_LINE = re.compile(r"(?:^|\s)line:(-?\d{1,3}(?:\.\d{1,9})?)(%?)")
_LINES = 18  # of a WebVTT frame
_ROWS: tuple[Row, ...] = ("bottom", "middle", "top")


@dataclass
class _Block:
    start_ms: int
    end_ms: int
    settings: str
    lines: list[str] = field(default_factory=list)


def is_timed_text(text: str) -> bool:
    """Whether any line has the times of a cue, or tries to."""
    lines = text.split("\n")
    return any(_times(line) or _LOOKS_TIMED.match(line) for line in map(_visible, lines))


def read(text: str, *, webvtt: bool) -> list[Cue]:
    """The cues of an SRT or WebVTT file. Raises SyntaxError, with the line, for times that cannot be understood."""
    return [_cue(block, webvtt=webvtt) for block in _blocks(text.split("\n"), webvtt=webvtt)]


def _blocks(lines: list[str], *, webvtt: bool) -> Iterator[_Block]:
    block: _Block | None = None
    count = 0
    for i, line in enumerate(lines):
        alone = i == 0 or not lines[i - 1].strip() or bool(_ADORNED.match(_visible(lines[i - 1])))
        times = _times(_visible(line), alone=alone)
        if times is None and _LOOKS_TIMED.match(_visible(line)):
            raise SyntaxError(f"line {i + 1} has no valid cue times: {line.strip()[:60]}")
        if times is None:
            if block:
                block.lines.append(line)
            continue
        if block:
            _drop_number(block.lines, count + 1, webvtt=webvtt)
            yield block
        start_ms, end_ms, rest = times
        is_text = not webvtt and not _SETTINGS.match(rest)
        block, count = _Block(start_ms, end_ms, "" if is_text else rest, [rest] if is_text else []), count + 1
    if block:
        yield block


def _drop_number(lines: list[str], number: int, *, webvtt: bool) -> None:
    """Remove the number of the next cue, which may stand before an empty line, from the end of a cue's lines.

    In WebVTT, whatever stands alone between an empty line and the next times is that cue's identifier.
    """
    if webvtt and len(lines) > 1 and lines[-1].strip() and not lines[-2]:
        lines.pop()
        return
    apart = False
    while lines and not lines[-1].strip():
        lines.pop()
        apart = True
    found = _ADORNED.match(_visible(lines[-1])) if lines else None
    if not found:
        return
    below_empty = len(lines) == 1 or not lines[-2].strip()
    expected = int(found[1]) in {number - 1, number}
    if not _NUMBER.match(_visible(lines[-1])):
        if below_empty and expected:
            lines.pop()
    elif not apart or (below_empty and (expected or len(lines) > 1)):
        lines.pop()


def _visible(line: str) -> str:
    """A line without marks of direction and the like, which may stand around numbers and times."""
    return line.translate(_INVISIBLE)


def _times(line: str, *, alone: bool = True) -> tuple[int, int, str] | None:
    """Start, end and the rest of a line with the times of a cue. A loose form counts only where a cue may begin."""
    match = _TIMES.match(line)
    if not match:
        return None
    start, end = _milliseconds(match["start"]), _milliseconds(match["end"])
    if start is None or end is None:
        return None
    arrow = match["arrow"]
    if not _STANDARD_ARROW.fullmatch(arrow) and not alone:
        return None
    if not re.search(r"[-–—−=].*[>;]|→", arrow) and not re.search(r"[.,，]\s?\d{3}$", match["end"]):
        return None  # 10:30 - 11:30 and 2:1 > 1:1 are more likely text
    return start, end, match["rest"]


def _milliseconds(clock: str) -> int | None:
    """The time on a clock; None when it cannot be understood, such as one that ends with the number of a frame."""
    plain = re.sub(r"\s", "", clock).translate(str.maketrans("：，−", ":,-"))
    match = _PARTS.fullmatch(plain.removeprefix("-"))
    if not match or ":" not in plain:
        return None
    hours, minutes, seconds, fraction, millis = match.groups()
    if millis and minutes is None:
        return None
    whole = (int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds)
    total = whole * 1000 + (int(millis) if millis else round(float(f"0.{fraction or 0}") * 1000))
    return -total if plain.startswith("-") else total


def _cue(block: _Block, *, webvtt: bool) -> Cue:
    lines = _payload(block.lines) if webvtt else block.lines
    row: Row | None = _row_of_line(block.settings) if webvtt else None
    pieces: list[tuple[int, str]] = [(block.start_ms, "")]
    text, at = "\n".join(lines), 0
    for match in _MARKUP.finditer(text):
        _add(pieces, text[at : match.start()])
        at = match.end()
        if match["millis"]:
            hours, minutes, seconds, millis = (
                int(match[name] or 0) for name in ("hours", "minutes", "seconds", "millis")
            )
            pieces.append((((hours * 60 + minutes) * 60 + seconds) * 1000 + millis, ""))
        elif match["br"]:
            _add(pieces, "\n")
        elif match["reading"]:
            _add(pieces, f"({match['reading']})")
        elif aligned := _ALIGNED.search(match[0]):
            row = row or _ROWS[(int(aligned[1]) - 1) // 3]
    _add(pieces, text[at:])
    return timed(block.start_ms, block.end_ms, pieces, row)


def _payload(lines: list[str]) -> list[str]:
    """The text of a WebVTT cue, which ends at an empty line: neither at a blank, nor at one before the text."""
    begin = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    if not all(lines[:begin]) and begin < len(lines) and _NO_CUE.match(lines[begin]):
        return []
    end = next((i for i in range(begin, len(lines)) if not lines[i]), len(lines))
    return lines[begin:end]


def _add(pieces: list[tuple[int, str]], text: str) -> None:
    ms, before = pieces[-1]
    pieces[-1] = (ms, before + _ENTITY.sub(_decoded, text))


def _decoded(entity: re.Match[str]) -> str:
    text = entity[0]
    return html.unescape(text) if text[1] == "#" else html.entities.html5.get(text[1:], text)


def _row_of_line(settings: str) -> Row | None:
    """Where WebVTT's `line` puts a cue: a share of the height, or a number of lines from the top or the bottom."""
    match = _LINE.search(settings)
    if not match:
        return None
    value = float(match[1])
    share = value / 100 if match[2] else value / _LINES + (match[1].startswith("-"))
    return "top" if share < 1 / 3 else "middle" if share < 2 / 3 else "bottom"
