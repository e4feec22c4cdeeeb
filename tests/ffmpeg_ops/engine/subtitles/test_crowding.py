"""Captions without room in the frame: which are left out, and that none of them would have been seen."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pysubs2
import pytest

from ffmpeg_ops.engine.subtitles import crowding
from ffmpeg_ops.engine.subtitles.ass_script import to_ass
from ffmpeg_ops.engine.subtitles.crowding import Drawn, with_room
from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.engine.subtitles.fonts import Fonts, installed
from ffmpeg_ops.engine.subtitles.style import look
from tests.ffmpeg_ops.media import ffmpeg

SIZE = (160, 90)


def caption(start: int, end: int, height: float) -> Drawn:
    return Drawn(pysubs2.SSAEvent(start=start, end=end, text=f"{start}-{end}"), height)


def names(captions: list[Drawn]) -> list[str]:
    return [event.text for event in with_room(captions, 100)]


def test_captions_are_left_out_when_two_frames_are_full() -> None:
    assert names([caption(0, at, 50) for at in range(100, 110)]) == ["0-100", "0-101", "0-102", "0-103"]


def test_there_is_room_again_when_others_end() -> None:
    captions = [caption(0, 10, 150), caption(0, 20, 150), caption(5, 20, 1), caption(10, 20, 30), caption(12, 20, 30)]
    assert names(captions) == ["0-10", "0-20", "10-20", "12-20"]


def test_the_order_stays_and_whichever_begins_first_is_placed_first() -> None:
    captions = [caption(5, 9, 150), caption(4, 9, 150), caption(3, 9, 100)]
    assert names(captions) == ["4-9", "3-9"]


@pytest.mark.parametrize("row", ["bottom", "middle", "top"])
def test_what_is_left_out_would_not_be_seen(
    row: Literal["bottom", "middle", "top"], monkeypatch: pytest.MonkeyPatch
) -> None:
    cues = [Cue(20 * i, 2000 - (i % 3) * 300, f"{i} line\n{i} other", row=row) for i in range(40)]
    script, warnings = written(cues)
    monkeypatch.setattr(crowding, "_MAX_STACK", 1000)
    whole, none = written(cues)
    assert script.count("Dialogue") < whole.count("Dialogue") == 40 and not none
    assert warnings == [f"{40 - script.count('Dialogue')} captions have no room in the frame beside others; left out"]
    assert np.array_equal(pictures(script), pictures(whole)) and pictures(script).any()


def written(cues: list[Cue]) -> tuple[str, list[str]]:
    warnings: list[str] = []
    style = look({"size": 0.1}, *SIZE)
    return to_ass(cues, style, Fonts(installed(), style.font, bold=True, sample=""), warn=warnings.append), warnings


def pictures(script: str) -> Any:
    """Two seconds of video, ten frames each."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "captions.ass").write_text(script)
        source = f"-f lavfi -i color=black:size={SIZE[0]}x{SIZE[1]}:rate=10:duration=2 -vf ass=captions.ass"
        return np.frombuffer(
            ffmpeg(*source.split(), *["-f", "rawvideo", "-pix_fmt", "gray", "-"], cwd=Path(folder)), np.uint8
        )
