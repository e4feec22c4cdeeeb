"""Times in milliseconds and RFC 3339."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clock import SystemClock, from_rfc3339, to_rfc3339

YEAR_9999_MS = 253_402_300_799_999


def test_times_have_milliseconds_and_z() -> None:
    assert to_rfc3339(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert to_rfc3339(0) == "1970-01-01T00:00:00.000Z"


@given(st.integers(min_value=0, max_value=YEAR_9999_MS))
def test_every_millisecond_survives_the_round_trip(ms: int) -> None:
    assert from_rfc3339(to_rfc3339(ms)) == ms


@pytest.mark.parametrize(
    "text",
    ["2023-11-14T22:13:20.123Z", "2023-11-14T22:13:20.123+00:00", "2023-11-14T19:13:20.123-03:00"],
)
def test_any_offset_is_accepted(text: str) -> None:
    assert from_rfc3339(text) == 1_700_000_000_123


@pytest.mark.parametrize("text", ["2023-11-14T22:13:20", "2023-11-14", "soon", "", "1700000000"])
def test_a_time_without_an_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_rfc3339(text)


def test_the_system_clock_counts_milliseconds_of_utc() -> None:
    before = time.time()
    now = SystemClock().now_ms()
    assert isinstance(now, int)
    assert before * 1000 - 1 <= now <= time.time() * 1000 + 1
