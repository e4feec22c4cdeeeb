"""The bench of the gateway, at sizes that show only that its parts work."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gateway import answers, flight
from bench.gateway.client import Load, drive, request
from bench.gateway.sizes import Sizes

TINY = Sizes(runs=1, seconds=0.3, connections=4, warm_up=20, requests=100, in_flight=10, ending_s=1.5)


@pytest.mark.slow
def test_requests_and_memory_are_measured(tmp_path: Path) -> None:
    figures = {figure.name: figure.value for figure in answers.measure(tmp_path, TINY)}
    assert figures["gateway.post_per_s"] > 0 and figures["gateway.get_per_s"] > 0
    assert figures["gateway.post_ratio"] == pytest.approx(
        figures["gateway.post_per_s"] / figures["gateway.bare_per_s"], rel=0.01
    )
    assert 30 < figures["gateway.rss_mb"] < 200


@pytest.mark.slow
@pytest.mark.parametrize("events", [True, False])
def test_ends_of_jobs_in_flight_are_seen(tmp_path: Path, events: bool) -> None:
    seen = flight.fly(tmp_path, TINY, events=events)
    assert len(seen.seconds) == TINY.in_flight
    assert all(-0.1 < seconds < 60 for seconds in seen.seconds)


@pytest.mark.slow
def test_the_client_counts_what_was_asked_for_and_complains_of_a_refusal() -> None:
    with answers.bare_route() as port:
        good = request("POST", "/video/img2vid", {}, "{}")
        report = drive(Load(port, (good,), 3, count=50))
        assert len(report.took_ms) == 50 and report.seconds > 0
        assert len(drive(Load(port, (good,), 1, seconds=0.2)).took_ms) > 1
        with pytest.raises(RuntimeError, match="404"):
            drive(Load(port, (request("GET", "/nothing", {}),), 2, count=4))
