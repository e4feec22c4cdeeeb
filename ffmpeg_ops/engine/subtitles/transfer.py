"""Cues as JSON: on their way from the confined child that parses them to the worker, which trusts nothing of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine.subtitles import encodings, parse
from ffmpeg_ops.engine.subtitles.cue import Cue, Span
from ffmpeg_ops.engine.zygote import Returned

_MAX = 10**13  # of milliseconds; a clock may show six digits of hours
_ROWS = ("top", "middle", "bottom", None)

encodings.load_codecs()


def read(arguments: Mapping[str, Any]) -> Returned:
    """Parse the file `path`, a text in UTF-8 with `is_text`, of the param `name`. Runs in a confined child."""
    path, name, warnings = Path(arguments["path"]), arguments["name"], list[str]()
    if arguments["is_text"]:
        cues = parse.parse_text(path.read_text("utf-8"), name)
    else:
        cues = parse.parse_file(path, name, warnings.append)
    return {"warnings": warnings}, [json.dumps([_row_of(cue) for cue in cues]).encode()]


def _row_of(cue: Cue) -> list[Any]:
    spans = [[span.begin, span.end, span.start_ms, span.end_ms] for span in cue.spans]
    return [cue.start_ms, cue.end_ms, cue.text, spans, cue.row]


def cues(data: bytes) -> list[Cue]:
    """The cues in what `read` returned. Raises ValueError for anything else."""
    try:
        rows = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(rows, list) or len(rows) > parse.MAX_CUES:
        raise ValueError("not a list of cues")
    return [_cue(row) for row in rows]


def _cue(row: Any) -> Cue:
    if not isinstance(row, list) or len(row) != 5:
        raise ValueError("not a cue")
    start_ms, end_ms, text, spans, place = row
    if not isinstance(text, str) or len(text) > parse.MAX_CUE or place not in _ROWS or not isinstance(spans, list):
        raise ValueError("not a cue")
    start_ms, end_ms = _numbers([start_ms, end_ms], 2)
    return Cue(start_ms, end_ms, text, tuple(_span(span, text) for span in spans), place)


def _span(row: Any, text: str) -> Span:
    begin, end, start_ms, end_ms = _numbers(row, 4)
    if not 0 <= begin <= end <= len(text):
        raise ValueError("a span outside of its cue")
    return Span(begin, end, start_ms, end_ms)


def _numbers(row: Any, count: int) -> list[int]:
    whole = isinstance(row, list) and len(row) == count and all(type(number) is int for number in row)
    if not whole or not all(abs(number) <= _MAX for number in row):
        raise ValueError("not numbers within bounds")
    return list(row)
