"""Cues are moved into the video by whole hours, counted when they lie outside it, and refused when all do."""

from __future__ import annotations

import pytest

from ffmpeg_ops.engine.subtitles.cue import Cue, Span
from ffmpeg_ops.engine.subtitles.cue_times import fit
from wire.errors import AssetInvalid

HOUR = 3_600_000


def fitted(cues: list[Cue], length_s: float) -> tuple[list[Cue], list[str]]:
    warnings: list[str] = []
    return fit(cues, length_s, "url_srt", warnings.append), warnings


@pytest.mark.parametrize("hours", [1, 10, 100])
def test_whole_hours_are_taken_off(hours: int) -> None:
    late = hours * HOUR
    cues = [
        Cue(late + 500, late + 900, "a", (Span(0, 1, late + 500, late + 600),)),
        Cue(late + 59_000, late + 70_000, "b"),
    ]
    moved = [Cue(500, 900, "a", (Span(0, 1, 500, 600),)), Cue(59_000, 70_000, "b")]
    found, warnings = fitted(cues, 60)
    assert found == moved and len(warnings) == 1 and f"{hours:02d}:00:00" in warnings[0]


def test_cues_that_fit_stay() -> None:
    cues = [Cue(HOUR + 500, HOUR + 900, "a")]
    assert fitted(cues, 4000) == (cues, [])


def test_cues_outside_are_counted() -> None:
    outside = [Cue(60_000, 61_000, "late"), Cue(5, 5, "empty"), Cue(9, 1, "reversed"), Cue(-500, 0, "early")]
    found, warnings = fitted([Cue(0, 10, "in"), *outside], 60)
    assert [cue.text for cue in found] == ["in"]
    assert warnings == ["url_srt: 4 of 5 captions lie outside the video or end when they begin, and are never seen"]


@pytest.mark.parametrize(
    "cues", [[Cue(61_000, 62_000, "x")], [Cue(9, 1, "x")], [Cue(HOUR, HOUR + 1, "x"), Cue(2 * HOUR, 3 * HOUR, "y")]]
)
def test_a_video_without_any_cue_is_an_error(cues: list[Cue]) -> None:
    with pytest.raises(AssetInvalid, match="url_srt: no cue lies within the video, which is 60.0 s long"):
        fitted(cues, 60)
