"""Progress sent to RunPod: how often, and never after the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from handler import runpod_progress
from handler.runpod_progress import ProgressRelay
from tests.handler.support import FOREVER_S
from tests.servers import STOP_S


def test_progress_is_sent_seldom_never_near_the_end_and_never_after_it() -> None:
    now, sent = [1000.0], []
    relay = ProgressRelay(lambda progress: sent.append(progress["progress"]), lambda: now[0])
    relay.progress(0.1)  # too soon
    now[0] += runpod_progress.PERIOD_S
    relay.progress(0.2)
    relay.progress(0.3)  # too soon after that
    now[0] += runpod_progress.PERIOD_S
    relay.progress(0.95)  # near the end
    relay.progress(0.89)
    relay.close()
    now[0] += runpod_progress.PERIOD_S
    relay.progress(0.5)
    assert sent == [0.2, 0.89]


@pytest.fixture
def arrived() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("arrives", [True, False])
def test_the_end_waits_for_pending_progress_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, arrived: threading.Event, arrives: bool
) -> None:
    monkeypatch.setattr(runpod_progress, "PERIOD_S", 0.0)
    monkeypatch.setattr(runpod_progress, "SETTLE_S", FOREVER_S if arrives else 0.5)
    relay = ProgressRelay(lambda progress: threading.Thread(target=arrived.wait, daemon=True).start())
    relay.progress(0.1)
    settling = threading.Thread(target=relay.settle)
    settling.start()
    settling.join(0.1)
    assert settling.is_alive()
    if arrives:
        arrived.set()
    settling.join(STOP_S)
    assert not settling.is_alive()
