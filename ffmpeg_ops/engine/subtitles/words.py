"""Groups spoken words into readable cues, by pauses, sentences and length."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ffmpeg_ops.engine.subtitles.cue import Cue, Span
from ffmpeg_ops.engine.subtitles.lines import is_spaceless
from wire.errors import AssetInvalid

PAUSE_MS = 700  # a longer silence ends a caption
STAYS_MS = 300  # how long a caption stays after its last word
MAX_MS = 7000  # how long a caption may last
_ENDS_SENTENCE = re.compile(r"[.!?…。！？؟।][\"'”’»)\]」』]*\Z")


def to_cues(words: Sequence[Mapping[str, Any]], name: str) -> list[Cue]:
    """Group param `name`, a list of `{word, start, end}`, into cues. Raises AssetInvalid when no word has text."""
    spoken = [
        (" ".join(word["word"].split()), round(word["start"] * 1000), round(word["end"] * 1000)) for word in words
    ]
    spoken = sorted((word for word in spoken if word[0]), key=lambda word: word[1])
    if not spoken:
        raise AssetInvalid(f"{name}: the words contain no text.")
    groups = list(_groups(spoken))
    nexts = [group[0][1] for group in groups[1:]]
    return [_cue(group, until) for group, until in zip(groups, [*nexts, None], strict=True)]


_Word = tuple[str, int, int]


def _groups(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    group: list[_Word] = []
    for word in words:
        if group and _ends_before(group, word):
            yield group
            group = []
        group.append(word)
    yield group


def _ends_before(group: list[_Word], word: _Word) -> bool:
    last = group[-1]
    paused = word[1] - last[2] > PAUSE_MS
    return paused or bool(_ENDS_SENTENCE.search(last[0])) or word[2] - group[0][1] > MAX_MS


def _cue(words: list[_Word], until_ms: int | None) -> Cue:
    text, spans = "", []
    for word, start, end in words:
        glued = not text or (is_spaceless(text[-1]) and is_spaceless(word[0]))
        text += word if glued else f" {word}"
        spans.append(Span(len(text) - len(word), len(text), start, end))
    end_ms = max(word[2] for word in words) + STAYS_MS
    end_ms = end_ms if until_ms is None else min(end_ms, until_ms)
    return Cue(words[0][1], max(end_ms, words[0][1] + 1), text, tuple(spans))
