from __future__ import annotations

from fractions import Fraction

import pytest

from ffmpeg_ops.engine import output
from ffmpeg_ops.engine.inspect import AudioStream, MediaInfo, VideoStream
from wire.errors import JobError


def video(**changes: object) -> VideoStream:
    plain = {"index": 0, "codec": "h264", "width": 2, "height": 2, "frame_rate": Fraction(25), "frames": 50}
    return VideoStream(**{**plain, "duration_s": 2.0, "pixel_format": "yuv420p", **changes})  # type: ignore[arg-type]


def info(duration_s: float | None = 3.0, audio: AudioStream | None = None) -> MediaInfo:
    return MediaInfo("mov,mp4", duration_s, 1, video(), audio)


def test_the_stream_s_length_comes_first_then_the_container_s_then_the_frame_count() -> None:
    assert output.length_s(info(3.0), video(duration_s=2.0)) == 2.0
    assert output.length_s(info(3.0), video(duration_s=None)) == 3.0
    assert output.length_s(info(None), video(duration_s=None, frames=30)) == pytest.approx(1.2)


@pytest.mark.parametrize("frame_rate", [Fraction(0), Fraction(25)])
def test_an_unknown_length_is_an_error(frame_rate: Fraction) -> None:
    with pytest.raises(JobError, match="length"):
        output.length_s(info(None), video(duration_s=None, frames=None, frame_rate=frame_rate))


@pytest.mark.parametrize(
    ("codec", "made"), [("aac", "copy"), ("mp3", "copy"), ("ac3", "aac"), ("alac", "aac"), ("", "")]
)
def test_sound_is_copied_where_every_player_has_it(codec: str, made: str) -> None:
    if not codec:
        assert output.keep_audio(info()) == ["-an"]
        return
    arguments = output.keep_audio(info(audio=AudioStream(3, codec, 48_000, 2, 1.0)))
    assert arguments[:2] == ["-map", "0:3"]
    assert arguments[arguments.index("-c:a") + 1] == made
