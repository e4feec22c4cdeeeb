"""The bench of fairness: its attacks are real, its figures are those of both sides, and its bar is strict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bench.fairness import attacker, table
from bench.fairness.attacker import Assault, Call, Outcome
from bench.fairness.attacks import ATTACKS, Attack
from bench.fairness.compare import Side, compare, holds
from bench.fairness.scene import Scene, SilentHosts, attack, scene
from bench.fairness.sizes import Sizes
from tests.servers import FileServer, Reply, eventually, file_server

TINY = Sizes(at_once=2, quiet_s=1, attacked_s=1, waits=3, large_jobs=2, rows=50, silent_hosts=2, slow_heads=5)
BY_NAME = {attack.name: attack for attack in ATTACKS}
QUIET = Side(20, 40, 60, 10, 0.2, 0.3, 100, {})
# The statuses that each attack gets, as long as it is in force.
STATUSES = {
    "uploads_4": set(),
    "uploads_64": {"503"},
    "downloads_4": set(),
    "downloads_64": {"503"},
    "signed_downloads": {"503"},
    "waits": set(),
    "lists": {"200"},
    "disk": {"202", "200"},
    "webhooks": {"202", "200"},
    "refused": {"422"},
    "filters": {"200"},
    "heads": set(),
    "backlog": {"202"},
}


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("fairness"), TINY.silent_hosts, local=False) as running:
        yield running


def until(happened: Callable[[], object]) -> threading.Event:
    """An event that is set as soon as it has happened."""
    over = threading.Event()

    def watch() -> None:
        eventually(happened)
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    return over


def test_connections_are_held_open() -> None:
    over = threading.Event()
    threading.Timer(0.2, over.set).start()
    with closing(SilentHosts(1)) as silent:
        port = int(silent.origins[0].rpartition(":")[2])
        assault = Assault(port, "", 5, (Call("GET", "/"),), holds=True)
        assert attacker.hold(assault, over) == Outcome(5, {})


@pytest.mark.slow
def test_a_held_request_that_is_refused_is_counted_and_made_again(server: FileServer) -> None:
    server.default = Reply(503)
    assault = Assault(server.port, "key", 1, (Call("GET", "/"),), holds=True)
    outcome = attacker.hold(assault, until(lambda: len(server.requests) > 1))
    assert outcome.statuses["503"] >= 1
    assert {request.headers["X-API-Key"] for request in server.requests} == {"key"}


def test_a_job_is_cancelled_as_soon_as_it_is_made(server: FileServer) -> None:
    server.default = Reply(202, headers={"Location": "/jobs/one"})
    assault = Assault(server.port, "key", 1, (Call("POST", "/video/img2vid", "{}"),), cancels=True, count=2)
    outcome = attacker.repeat(assault, until(lambda: len(server.requests) == 4))
    assert [(request.method, request.path) for request in server.requests] == [
        ("POST", "/video/img2vid"),
        ("DELETE", "/jobs/one"),
    ] * 2
    assert outcome.statuses == {"202": 4}


@pytest.mark.parametrize(
    ("attacked", "expected"),
    [
        (QUIET, True),
        (replace(QUIET, p99_ms=250, health_ms=250, begin_s=0.4, webhook_s=0.6), True),
        (replace(QUIET, p99_ms=251), False),
        (replace(QUIET, health_ms=251), False),
        (replace(QUIET, begin_s=0.41), False),
        (replace(QUIET, webhook_s=0.61), False),
        (replace(QUIET, refused={"503": 1}), False),
    ],
)
def test_the_bar(attacked: Side, expected: bool) -> None:
    assert holds(BY_NAME["heads"], QUIET, attacked) is expected


def test_a_slow_quiet_side_allows_three_times_its_latency() -> None:
    quiet = replace(QUIET, p99_ms=100)
    assert holds(BY_NAME["heads"], quiet, replace(quiet, p99_ms=300))
    assert not holds(BY_NAME["heads"], quiet, replace(quiet, p99_ms=301))


def test_every_attack_at_runpod_has_its_statuses_here() -> None:
    assert STATUSES.keys() == {made.name for made in ATTACKS if not made.local}


@pytest.mark.slow
@pytest.mark.parametrize("made", [made for made in ATTACKS if not made.local], ids=lambda made: made.name)
def test_an_attack_reaches_the_gateway(here: Scene, made: Attack) -> None:
    assault = made.plan(here, TINY)
    if assault.count is None and not assault.holds:
        assault = replace(assault, count=assault.connections)
    with attack(assault) as end:
        threading.Event().wait(2.0 if assault.holds else 0.0)
        outcome = end()
    assert set(outcome.statuses) == STATUSES[made.name]
    # Of 64 transfers, the limits of the key or of its address let half begin.
    expected = 32 if "503" in STATUSES[made.name] else assault.connections
    assert outcome.held >= (expected if assault.holds else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heads", "slow_jobs"])
def test_both_sides_are_measured_and_shown(tmp_path: Path, name: str) -> None:
    figures = compare(tmp_path, BY_NAME[name], TINY)
    values = {figure.name: figure.value for figure in figures}
    for side in ("quiet", "attacked"):
        assert values[f"fairness.{name}.p50_ms.{side}"] > 0 and values[f"fairness.{name}.health_ms.{side}"] > 0
        assert values[f"fairness.{name}.begin_s.{side}"] > 0 and values[f"fairness.{name}.webhook_s.{side}"] > 0
        assert values[f"fairness.{name}.rss_mb.{side}"] > 30
    assert table(figures).row_count == 1
