"""Reads the text, times and rows of ASS and SSA scripts, as libass does; all other styling is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ffmpeg_ops.engine.subtitles.cue import Cue, Row, timed

_HEADING = re.compile(r"^[ \t]*\[(?:script info|v4\+? styles|events)\]", re.IGNORECASE | re.MULTILINE)
_EVENT = "Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text"
_TIME = re.compile(r"\s*(-?)(\d{1,6}):(\d{1,2}):(\d{1,2})(?:[.:,](\d{1,3}))?\s*")
_BLOCK = re.compile(r"(?<!\\)\{([^{}]*)\}")
_LEFT_OPEN = re.compile(r"(?<!\\)\{(?=[^{}]*(?:\{|\Z))")
_SYLLABLE = re.compile(r"\\(?:k|K|kf|ko)(\d{1,6})")
_DRAWING = re.compile(r"\\p(\d{1,12})")
_ALIGNED = re.compile(r"\\an?(\d{1,2})")
_ROWS: tuple[Row, ...] = ("bottom", "middle", "top")
_OLD_ROWS: tuple[Row, ...] = ("bottom", "top", "middle")  # of SSA's numbers: 1 to 3, 5 to 7 and 9 to 11


def starts_at(text: str) -> int | None:
    """Index of the first heading of a script, None when there is none."""
    match = _HEADING.search(text)
    return match.start() if match else None


def read(text: str) -> list[Cue]:
    """The cues of a script; the same text at the same time in several layers is one."""
    found: dict[tuple[int, int, str], Cue] = {}
    for cue in _cues(text):
        key = (cue.start_ms, cue.end_ms, cue.text)
        if key not in found or (cue.spans and not found[key].spans):
            found[key] = cue
    return list(found.values())


def _cues(text: str) -> Iterator[Cue]:
    fields, section, rows = _fields(_EVENT), "events", {}
    style_fields: list[str] = []
    for line in text.split("\n"):
        key, _, value = line.strip().partition(":")
        kind = key.strip().lower()
        if heading := re.fullmatch(r"\[([^\[\]]+)\]", line.strip()):
            section = heading[1].lower()
        elif kind == "format" and section == "events":
            fields = _fields(value)
        elif kind == "format" and section.startswith("v4"):
            style_fields = _fields(value)
        elif kind == "style" and "alignment" in style_fields:
            style = dict(zip(style_fields, map(str.strip, value.split(",")), strict=False))
            rows[style.get("name", "").lstrip("*")] = _row(style.get("alignment", ""), new="+" in section)
        elif kind == "dialogue" and section not in {"fonts", "graphics"}:
            event = dict(zip(fields, value.lstrip().split(",", len(fields) - 1), strict=False))
            start, end = _milliseconds(event.get("start", "")), _milliseconds(event.get("end", ""))
            if start is not None and end is not None:
                row = rows.get(event.get("style", "").strip().lstrip("*"))
                yield _cue(start, end, event.get("text", ""), row)


def _fields(text: str) -> list[str]:
    return [name.strip().lower() for name in text.split(",")]


def _milliseconds(text: str) -> int | None:
    match = _TIME.fullmatch(text)
    if not match:
        return None
    sign, hours, minutes, seconds, fraction = match.groups()
    whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
    return (whole * 1000 + round(float(f"0.{fraction or 0}") * 1000)) * (-1 if sign else 1)


def _row(number: str, *, new: bool) -> Row | None:
    value = int(number) if number.isdecimal() else 0
    if new:
        return _ROWS[(value - 1) // 3] if 1 <= value <= 9 else None
    return _OLD_ROWS[value // 4] if 1 <= value <= 11 else None


def _cue(start_ms: int, end_ms: int, text: str, row: Row | None) -> Cue:
    """Karaoke tags give the times of syllables; drawings are left out."""
    now = max(0, start_ms)
    pieces: list[tuple[int, str]] = [(start_ms, "")]
    drawing = False
    for i, part in enumerate(_BLOCK.split(_LEFT_OPEN.sub("", text))):
        if i % 2 == 0:
            ms, before = pieces[-1]
            pieces[-1] = (ms, before + ("" if drawing else _plain(part)))
            continue
        for scale in _DRAWING.findall(part):
            drawing = int(scale) > 0
        if aligned := _ALIGNED.search(part):
            row = _row(aligned[1], new="\\an" in aligned[0]) or row
        if lengths := [int(length) * 10 for length in _SYLLABLE.findall(part)]:
            pieces.append((now + sum(lengths[:-1]), ""))
            now += sum(lengths)
    if len(pieces) > 1:
        pieces.append((now, ""))
    return timed(start_ms, end_ms, pieces, row)


def _plain(text: str) -> str:
    text = re.sub(r"\\([{}])", r"\1", text)
    return re.sub(r"\\[Nn]", "\n", text).replace("\\h", "\xa0")
