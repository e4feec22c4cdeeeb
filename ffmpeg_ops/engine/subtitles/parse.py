"""Parses SRT, WebVTT and ASS, as found in the wild, into cues."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from ffmpeg_ops.engine.subtitles import encodings, substation, timed_text
from ffmpeg_ops.engine.subtitles.cue import Cue
from wire.errors import AssetInvalid, AssetTooLarge
from wire.sniffing import sniff_file

MAX_BYTES = 5_000_000
MAX_CUES = 50_000  # more than four hours of three words a second, each a cue of its own
MAX_AT_ONCE = 50
MAX_CUE = 5000  # characters
# No pattern may try a long line in more than one way: a thread that matches cannot be stopped.
_TIMED_OR_ASS = re.compile(
    r"^[ \t]*(?:Dialogue|\[[^\[\]\n]+\]|WEBVTT|[^\d\n]*\d[^>→;\n-]*[->→;][^\d\n]*\d)", re.MULTILINE
)
_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:\w+[ \t]*)?$", re.MULTILINE)

Warn = Callable[[str], object]


def parse_file(path: Path, name: str, warn: Warn = lambda _: None) -> list[Cue]:
    """Parse the file of param `name`. Passes what had to be guessed to `warn`.

    Raises AssetInvalid, or AssetTooLarge past MAX_BYTES or MAX_CUES.
    """
    if path.stat().st_size > MAX_BYTES:
        raise AssetTooLarge(f"{name}: the subtitles are larger than {MAX_BYTES // 1_000_000} MB.")
    try:
        cues = _parse(encodings.decode(path.read_bytes(), warn))
    except SyntaxError as error:
        raise AssetInvalid(f"{name}: {error.msg}") from error
    except ValueError as error:
        message = f"{name}: the file is {sniff_file(path).label}, not readable SRT, WebVTT or ASS."
        raise AssetInvalid(message, detail=type(error).__name__) from error  # its text quotes the whole file
    return _checked(cues, name, "file")


def parse_text(text: str, name: str) -> list[Cue]:
    """Parse the text of param `name`. Raises AssetInvalid, or AssetTooLarge past MAX_CUES."""
    try:
        cues = _parse(text)
    except SyntaxError as error:
        raise AssetInvalid(f"{name}: {error.msg}") from error
    except ValueError as error:
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
    text = _without_fences(re.sub(r"\r{0,2}\n|\r", "\n", _unquoted(text.replace("\ufeff", ""))))
    webvtt = text.lstrip().startswith("WEBVTT")
    script = None if webvtt else substation.starts_at(text)
    if script is not None and not timed_text.is_timed_text(text[:script]):
        cues = substation.read(text)
    elif webvtt or timed_text.is_timed_text(text):
        cues = timed_text.read(text, webvtt=webvtt)
    else:
        raise ValueError("no cue times")
    return [cue for cue in cues if cue.text]


def _unquoted(text: str) -> str:
    """The text itself where it comes as a JSON string, or as the inside of one."""
    bare = text.strip()
    if "\n" in bare or "\r" in bare:
        return text
    for string in (bare, f'"{bare}"'):
        try:
            loaded = json.loads(string, strict=False)
        except (ValueError, RecursionError):
            continue
        return loaded if isinstance(loaded, str) else text
    return re.sub(r"\\r\\n|\\n|\\r", "\n", text)


def _without_fences(text: str) -> str:
    """The text without the Markdown fences of language models and what they say around them."""
    parts = _FENCE.split(text)
    return text if len(parts) == 1 else "".join(part for part in parts if _TIMED_OR_ASS.search(part))
