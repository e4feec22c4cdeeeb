"""ffmpeg_ops.engine.timeline.rates"""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffmpeg_ops.engine.timeline.rates import SAMPLE_RATE, exact_rate, exact_s, frame_count, sample_of

BROADCAST = {23.976: "24000/1001", 23.98: "24000/1001", 29.97: "30000/1001", 59.94: "60000/1001", 14.985: "15000/1001"}
PLAIN = {24.0: "24", 25.0: "25", 12.5: "25/2", 1.0: "1", 60.0: "60", 29.5: "59/2"}


@pytest.mark.parametrize(("given_rate", "exact"), [*BROADCAST.items(), *PLAIN.items()])
def test_broadcast_rates_are_exact_fractions(given_rate: float, exact: str) -> None:
    assert exact_rate(given_rate) == Fraction(exact)


@pytest.mark.parametrize(
    ("seconds", "exact"),
    [
        *[(0.1 + 0.2, "3/10"), (0.7 + 0.1, "8/10"), (1.1 * 3, "33/10"), (0.0, "0"), (5, "5")],
        *[(3.024, "3024/1000"), (1 / 3, "333333333/1000000000"), (1e-7, "1/10000000"), (14400.5, "28801/2")],
    ],
)
def test_seconds_are_the_decimal_number_that_was_meant(seconds: float, exact: str) -> None:
    assert exact_s(seconds) == Fraction(exact)


@pytest.mark.parametrize(
    ("duration", "rate", "count"),
    [
        *[(5, 24, 120), (5, 23.976, 120), (5, 29.97, 150), (10, 29.97, 300), (60, 60, 3600)],
        *[(0.5, 25, 13), (0.001, 1, 0), (1.1, 30, 33), (0.7, 10, 7), (0.7 + 0.08, 25, 20), (0.1 + 0.2, 25, 8)],
    ],
)
def test_the_number_of_frames_is_duration_times_rate_and_a_half_is_rounded_up(
    duration: float, rate: float, count: int
) -> None:
    assert frame_count(exact_s(duration), exact_rate(rate)) == count


@pytest.mark.parametrize(
    ("frame", "rate", "sample"),
    [(0, 24.0, 0), (1, 24.0, 2000), (1, 23.976, 2002), (1, 29.97, 1602), (3, 29.97, 4805), (107892, 29.97, 172799827)],
)
def test_a_frame_begins_at_its_sample(frame: int, rate: float, sample: int) -> None:
    assert sample_of(frame, exact_rate(rate)) == sample


@given(st.integers(0, 10**6), st.floats(1, 60))
def test_samples_never_drift_from_their_frames(frame: int, rate: float) -> None:
    exact = exact_rate(rate)
    assert abs(sample_of(frame, exact) - frame * SAMPLE_RATE / exact) <= Fraction(1, 2)
    assert sample_of(frame + 1, exact) > sample_of(frame, exact)
