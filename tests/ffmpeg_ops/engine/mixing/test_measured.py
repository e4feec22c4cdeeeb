"""ffmpeg_ops.engine.mixing.measured"""

from __future__ import annotations

from functools import partial

import pytest

from ffmpeg_ops.engine.mixing.measured import Measured
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media

slow = partial(pytest.param, marks=pytest.mark.slow)
RATE = 48000


@pytest.mark.parametrize(
    ("extension", "error"),
    [slow("wav", 0), slow("mp3", 1), ("m4a", RATE // 1000), slow("aac", 2 * 1024), slow("mkv", 1)],
)
@pytest.mark.parametrize("rate", [48_000, slow(44_100)])
def test_a_sound_is_as_long_as_what_was_encoded(
    extension: str, error: int, rate: int, work: Work, media: Media
) -> None:
    """Without the padding of M4A. Bare AAC packets do not say how much of them is padding."""
    codec = "-c:a pcm_s16le" if extension == "mkv" else ""
    path = media.made(f"padded-{rate}.{extension}", f"-f lavfi -i sine=d=0.61:sample_rate={rate} {codec}")
    measured = Measured.of(path, "url_audio", work, pytest.fail)
    assert measured.samples == pytest.approx(0.61 * RATE, abs=error)
