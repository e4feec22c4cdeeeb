"""Parses SRT, WebVTT and ASS, as found in the wild, into cues."""

from __future__ import annotations

import codecs
import html
import re
from itertools import accumulate
from pathlib import Path

import pysubs2
from pysubs2.formats import autodetect_format

from ffmpeg_ops.engine.subtitles.cue import Cue, Span
from wire.errors import AssetInvalid, AssetTooLarge
from wire.sniffing import sniff_file

MAX_BYTES = 5_000_000
MAX_CUES = 50_000  # more than four hours of three words a second, each a cue of its own
MAX_AT_ONCE = 50
MAX_CUE = 5000  # characters
_FORMATS = frozenset({"srt", "vtt", "ass", "ssa"})
# What pysubs2 raises on text that resembles one of its formats.
_UNREADABLE = (pysubs2.exceptions.Pysubs2Error, ValueError, LookupError, TypeError, AttributeError, OverflowError)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))

# Text in SRT and WebVTT that the parser would take for ASS override tags: replaced by private characters meanwhile.
_MASK = str.maketrans("\\{}<", "\ue000\ue001\ue002\ue005")
_UNMASK = str.maketrans("\ue000\ue001\ue002\ue005", "\\{}<", "\ue006")
_OURS = re.compile(r"[\ue000-\ue006]")
# No pattern may look past the next bracket of its kind, or a file of brackets alone would take quadratic time. The
# parser's own patterns do, so unclosed brackets are removed before it runs.
_ASS_TAG = re.compile(r"\{\\[^{}\n]*\}")  # not in any SRT standard, but players accept it
_TAG = re.compile(r"</?(?:[a-zA-Z][a-zA-Z0-9.]*|(?:font|span|lang|c|v)[ .\t][^<>\n]*)[ \t]*/?>")
_LEFT_OPEN = re.compile(r"\{(?=[^{}\n]*(?:[{\n]|\Z))")
# A line with only a number that is not a cue's: the parser would take it for the number of the next cue.
_NUMBER = re.compile(r"^( *\d+ *)$(?!\n[^\n]*-->)", re.MULTILINE)
# WebVTT's time of a word inside a cue. It goes through the parser as a mark: the original would start a new cue.
_TIMESTAMP = re.compile(r"<(?:(\d{1,4}):)?(\d{1,2}):(\d{2})\.(\d{3})>")
_LOOKS_TIMED = re.compile(r"<\d[\d:.]*>")
_MARK = re.compile(r"\ue003(\d+)\ue004")
_BLOCK = re.compile(r"\{[^{}]*\}")
_SYLLABLE = re.compile(r"\\(?:k|K|kf|ko)(\d{1,6})")


def parse_file(path: Path, name: str) -> list[Cue]:
    """Parse the file of param `name`. Raises AssetInvalid, or AssetTooLarge past MAX_BYTES or MAX_CUES."""
    if path.stat().st_size > MAX_BYTES:
        raise AssetTooLarge(f"{name}: the subtitles are larger than {MAX_BYTES // 1_000_000} MB.")
    try:
        raw = path.read_bytes()
        cues = _parse(raw.decode(_encoding(raw)))
    except _UNREADABLE as error:
        message = f"{name}: the file is {sniff_file(path).label}, not readable SRT, WebVTT or ASS."
        raise AssetInvalid(message, detail=type(error).__name__) from error  # its text quotes the whole file
    return _checked(cues, name, "file")


def parse_text(text: str, name: str) -> list[Cue]:
    """Parse the text of param `name`. Raises AssetInvalid, or AssetTooLarge past MAX_CUES."""
    try:
        cues = _parse(text.removeprefix("\ufeff"))
    except _UNREADABLE as error:
        raise AssetInvalid(f"{name}: the text is not SRT, WebVTT or ASS.", detail=type(error).__name__) from error
    return _checked(cues, name, "text")


def _checked(cues: list[Cue], name: str, what: str) -> list[Cue]:
    if not cues:
        raise AssetInvalid(f"{name}: the {what} contains no subtitles.")
    if len(cues) > MAX_CUES:
        raise AssetTooLarge(f"{name}: there are more than {MAX_CUES} subtitles.")
    if any(len(cue.text) > MAX_CUE for cue in cues):
        raise AssetInvalid(f"{name}: a subtitle is longer than {MAX_CUE} characters.")
    if _max_overlap(cues) > MAX_AT_ONCE:
        raise AssetInvalid(f"{name}: more than {MAX_AT_ONCE} subtitles are shown at the same time.")
    return cues


def _max_overlap(cues: list[Cue]) -> int:
    """The maximum number of cues shown at the same time. The renderer's work grows with its square."""
    shown = [cue for cue in cues if cue.end_ms > cue.start_ms]
    changes = sorted([(cue.start_ms, 1) for cue in shown] + [(cue.end_ms, -1) for cue in shown])
    return max(accumulate(change for _, change in changes), default=0)


def _parse(text: str) -> list[Cue]:
    text = re.sub(r"\r\n?", "\n", text)
    kind = autodetect_format(text)
    if kind not in _FORMATS:
        raise ValueError(f"format {kind}")
    text = _OURS.sub("", text)
    if kind in {"srt", "vtt"}:
        text = _LOOKS_TIMED.sub("", _TIMESTAMP.sub(_mark_of, text))
        text = _TAG.sub("", _ASS_TAG.sub("", text)).translate(_MASK)
        text = _NUMBER.sub("\ue006\\1", text)
    else:
        text = _LEFT_OPEN.sub("", text)
    events = [event for event in pysubs2.SSAFile.from_string(text, format_=kind) if event.is_text]
    cues = [_cue(event, kind) for event in events]
    return [cue for cue in cues if cue.text]


def _mark_of(timestamp: re.Match[str]) -> str:
    hours, minutes, seconds, millis = (int(part or 0) for part in timestamp.groups())
    return f"\ue003{((hours * 60 + minutes) * 60 + seconds) * 1000 + millis}\ue004"


def _cue(event: pysubs2.SSAEvent, kind: str) -> Cue:
    if kind in {"ass", "ssa"}:
        event.text = _marked_syllables(event)
    text = event.plaintext.translate(_UNMASK)
    if kind == "vtt":  # the parser reads past the empty line that ends a cue; only WebVTT has entities
        text = html.unescape(re.split(r"\n\s*\n", text)[0])
    return _timed(event.start, event.end, text)


def _marked_syllables(event: pysubs2.SSAEvent) -> str:
    """The event's text with a mark wherever a karaoke tag starts a syllable."""
    now = max(0, event.start)

    def replace(block: re.Match[str]) -> str:
        nonlocal now
        lengths = [int(length) * 10 for length in _SYLLABLE.findall(block[0])]
        if not lengths:
            return block[0]
        begins, now = now + sum(lengths[:-1]), now + sum(lengths)
        return f"{block[0]}\ue003{begins}\ue004"

    marked = _BLOCK.sub(replace, event.text)
    return marked if marked == event.text else f"{marked}\ue003{now}\ue004"


def _timed(start_ms: int, end_ms: int, marked: str) -> Cue:
    """A cue from text with marks: what follows a mark is spoken until the next one."""
    first, *rest = _MARK.split(marked)
    pieces = [(start_ms, first), *((int(ms), piece) for ms, piece in zip(rest[::2], rest[1::2], strict=True))]
    text = "".join(piece for _, piece in pieces)
    cut = len(text) - len(text.lstrip())
    if len(pieces) == 1:
        return Cue(start_ms, end_ms, text.strip())
    spans, at = [], -cut
    for (ms, piece), (next_ms, _) in zip(pieces, [*pieces[1:], (end_ms, "")], strict=True):
        begin = at + len(piece) - len(piece.lstrip())
        at += len(piece)
        if piece.strip():
            starts = min(max(ms, start_ms), end_ms)
            spans.append(Span(begin, begin + len(piece.strip()), starts, max(starts, min(next_ms, end_ms))))
    return Cue(start_ms, end_ms, text.strip(), tuple(spans))


def _encoding(raw: bytes) -> str:
    for bom, encoding in _BOMS:
        if raw.startswith(bom):
            return encoding
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"  # what old subtitle editors write
    return "utf-8"
