"""Exact frame rates, and the frame and sample numbers that times become. A half is rounded up."""

from __future__ import annotations

import math
from fractions import Fraction

SAMPLE_RATE = 48_000
_BROADCAST = frozenset({15, 24, 30, 48, 60})


def exact_rate(frame_rate: float) -> Fraction:
    """Frames a second as a fraction; 23.976, 29.97 and 59.94 mean the broadcast rates n·1000/1001."""
    broadcast = Fraction(round(frame_rate) * 1000, 1001)
    if round(frame_rate) in _BROADCAST and frame_rate != round(frame_rate) and abs(broadcast - frame_rate) < 0.005:
        return broadcast
    return Fraction(frame_rate).limit_denominator(1000)


def exact_s(seconds: float) -> Fraction:
    """Seconds as the decimal number that was meant, to the nanosecond: 0.1 + 0.2 is 3/10."""
    return Fraction(f"{seconds:.9f}")


def frame_count(seconds: Fraction, rate: Fraction) -> int:
    """How many frames at `rate` last `seconds`."""
    return math.floor(seconds * rate + Fraction(1, 2))


def sample_of(frame: int, rate: Fraction) -> int:
    """The sample at which a frame begins."""
    return math.floor(frame / rate * SAMPLE_RATE + Fraction(1, 2))
