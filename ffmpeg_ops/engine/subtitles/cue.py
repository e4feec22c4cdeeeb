"""The common form of all subtitles: plain text with the times at which it is shown and spoken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Row = Literal["top", "middle", "bottom"]


@dataclass(frozen=True)
class Span:
    """A part of a cue's text whose time is known."""

    #: Index of its first character in the cue's text.
    begin: int
    #: Index after its last character.
    end: int
    #: When it begins to be spoken, in milliseconds of the video.
    start_ms: int
    #: When it has been spoken, in milliseconds of the video.
    end_ms: int


@dataclass(frozen=True)
class Cue:
    """A caption."""

    #: When it appears, in milliseconds of the video.
    start_ms: int
    #: When it disappears.
    end_ms: int
    #: Plain text, with `\\n` between lines.
    text: str
    #: The parts of the text whose time is known, in order; none where only the cue's own times are.
    spans: tuple[Span, ...] = ()
    #: Where the source places it in the frame, None when it does not say.
    row: Row | None = None


def timed(start_ms: int, end_ms: int, pieces: Sequence[tuple[int, str]], row: Row | None = None) -> Cue:
    """A cue from pieces of text, each spoken from its time in milliseconds until that of the next one."""
    text = "".join(piece for _, piece in pieces)
    cut = len(text) - len(text.lstrip())
    if len(pieces) == 1:
        return Cue(start_ms, end_ms, text.strip(), row=row)
    spans, at = [], -cut
    for (ms, piece), (next_ms, _) in zip(pieces, [*pieces[1:], (end_ms, "")], strict=True):
        begin = at + len(piece) - len(piece.lstrip())
        at += len(piece)
        if piece.strip():
            starts = min(max(ms, start_ms), end_ms)
            spans.append(Span(begin, begin + len(piece.strip()), starts, max(starts, min(next_ms, end_ms))))
    return Cue(start_ms, end_ms, text.strip(), tuple(spans), row)
