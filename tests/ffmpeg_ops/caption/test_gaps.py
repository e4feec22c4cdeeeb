from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest

from ffmpeg_ops.caption.gaps import Filling, filling, frame_times
from ffmpeg_ops.engine.inspect import AudioStream, MediaInfo, VideoStream, video_asset
from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media

STREAM = VideoStream(0, "h264", 96, 64, Fraction(10), None, 10.0, "yuv420p")
INFO = MediaInfo("matroska,webm", 10.0, 0, STREAM, None)


def every_tenth(*pauses: tuple[float, float]) -> list[float]:
    """Ten frames a second for ten seconds, except in the pauses."""
    return [i / 10 for i in range(100) if not any(a < i / 10 < b for a, b in pauses)]


def found(times: Sequence[float], *cues: tuple[int, int], moving: bool = False, sound_s: float = 0) -> Filling | None:
    info = replace(INFO, audio=AudioStream(1, "aac", 48000, 2, sound_s))
    return filling([Cue(a, b, "x") for a, b in cues], info, STREAM, 10.0, times, moving=moving)


@pytest.mark.parametrize("cue", [(2500, 6000), (1000, 2500), (2100, 3900)])
def test_a_gap_in_which_a_caption_changes_gets_frames(cue: tuple[int, int]) -> None:
    assert found(every_tenth((2, 4)), cue) == Filling(10.0, ((2.0, 4.0),))


def test_other_gaps_get_none() -> None:
    pauses = ((2, 4), (6, 6.2))
    assert found(every_tenth(), (0, 5000)) is None
    assert found(every_tenth(*pauses), (1000, 5000), (6100, 9000)) is None
    assert found(every_tenth(*pauses), (1000, 5000), moving=True) == Filling(10.0, ((2.0, 4.0),))


def test_a_long_last_frame_is_repeated_near_the_end() -> None:
    assert found(every_tenth((8, 11)), (500, 9000)) == Filling(10.0, ((8.0, 10.0),))
    pauses = every_tenth((2, 4), (8, 11))
    assert found(pauses, (3000, 20_000)) == Filling(10.0, ((2.0, 4.0), (9.6, 10.0)))


def test_where_most_of_a_video_is_gaps_frames_are_added_everywhere() -> None:
    assert found([0, 4, 8], (1000, 2000), (5000, 6000)) == Filling(10.0)
    assert found([0], (1000, 2000)) == Filling(10.0)


def test_the_last_frame_stays_for_captions_while_there_is_sound() -> None:
    assert found(every_tenth(), (11_000, 12_000), sound_s=15) == Filling(15.0, ((9.9, 15.0),))
    assert found(every_tenth(), (9000, 12_000), sound_s=20) is None
    assert found(every_tenth(), (11_000, 12_000)) is None


def test_times_count_from_the_start_of_the_file(media: Media, work: Work) -> None:
    late = media.made("late-picture.mkv", f"-i {media.video().name} -c copy -output_ts_offset 5")
    info, stream = video_asset(late, "url_video", work)
    times = frame_times(late, info, stream, work)
    assert len(times) == 25 and times[0] == pytest.approx(0, abs=0.03) and list(times) == sorted(times)
    info, stream = video_asset(media.video(), "url_video", work)
    assert frame_times(media.video(), info, stream, work) == pytest.approx([0.96], abs=0.001)
