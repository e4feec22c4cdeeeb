"""Cues as JSON: all of a cue arrives, and nothing but cues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.engine.subtitles import parse, transfer
from ffmpeg_ops.engine.subtitles.cue import Cue, Span

GOOD: list[Any] = [0, 1000, "one two", [[0, 3, 0, 500], [4, 7, 500, 1000]], "top"]


def test_all_of_a_cue_arrives(tmp_path: Path) -> None:
    spans = (Span(0, 3, 0, 500), Span(4, 7, 500, 1000))
    assert transfer.cues(json.dumps([GOOD]).encode()) == [Cue(0, 1000, "one two", spans, "top")]
    latest = 999_999 * 3_600_000  # hours that a clock may show
    assert transfer.cues(json.dumps([[latest, latest + 1, "x", [], None]]).encode()) == [Cue(latest, latest + 1, "x")]


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"[1]", b"[[]]", b"\xff", b"[" * 100_000, b"[" + b"9" * 5000])
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        transfer.cues(data)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *[(0, value) for value in (None, "0", 0.5, True, 10**14, -(10**14))],
        *[(2, value) for value in (None, 1, ["x"], "x" * (parse.MAX_CUE + 1), "one")],
        *[
            (3, value)
            for value in (None, {}, [1], [[0, 3, 0]], [[0, 3, 0, 500, 1]], [[0, 8, 0, 500]], [[3, 0, 0, 500]])
        ],
        *[(3, value) for value in ([[-1, 3, 0, 500]], [["0", 3, 0, 500]], [[0, 3, 0, 1.5]])],
        *[(4, value) for value in ("left", 1, [], {"top": 1})],
    ],
)
def test_a_cue_with_anything_odd_is_refused(at: int, value: Any) -> None:
    row = [*GOOD]
    row[at] = value
    with pytest.raises(ValueError):
        transfer.cues(json.dumps([row]).encode())


def test_the_number_of_cues_is_limited() -> None:
    row = [0, 1, "x", [], None]
    assert len(transfer.cues(json.dumps([row] * parse.MAX_CUES).encode())) == parse.MAX_CUES
    with pytest.raises(ValueError):
        transfer.cues(json.dumps([row] * (parse.MAX_CUES + 1)).encode())
