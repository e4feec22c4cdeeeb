"""The common form of all subtitles: plain text with the times at which it is shown and spoken."""

from __future__ import annotations

from dataclasses import dataclass


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
