"""`python -m bench memory` with one small input."""

from __future__ import annotations

import pytest

from bench import memory as bench
from bench.memory.cases import CASES, CUE, SMALL_BYTES, Case, video


@pytest.mark.slow
@pytest.mark.parametrize(("limit_bytes", "verdict"), [(SMALL_BYTES, "ok"), (50_000_000, "TOO MUCH")])
def test_the_peak_is_measured_and_judged(limit_bytes: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = {"url_video": video("128x72", 1), "url_srt": CUE}
    monkeypatch.setattr(bench, "CASES", [Case("small", "caption", "a small video", assets, {}, limit_bytes)])
    [figure] = bench.measure()
    assert figure.value > 60 and figure.target == f"≤ {limit_bytes / 1e6:g}"
    assert figure.meaning == f"{verdict}, completed: a small video"


def test_there_are_thirty_inputs_and_a_few_quick_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(CASES) >= 30 and len({case.name for case in CASES}) == len(CASES)
    monkeypatch.setattr(bench, "_figure", lambda case: case)
    assert 3 <= len(bench.measure(quick=True)) <= 8
