"""The dead-man switch of rented machines on clocks that jump and disks that fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from handler.dead_man_switch import Switch

Restart = Callable[[], Switch]


@dataclass
class Clocks:
    wall_s: float = 1_700_000_000.0
    boot_s: float = 5_000.0

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.boot_s += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def restart(tmp_path: Path, clocks: Clocks) -> Restart:
    """Starts a supervisor: ten minutes of silence, an hour of life."""
    state = tmp_path / "state/deadline.json"
    return lambda: Switch(state, 600, 3600, lambda: clocks.wall_s, lambda: clocks.boot_s)


def test_it_ends_after_silence_and_not_before(restart: Restart, clocks: Clocks) -> None:
    one = restart()
    for _ in range(3):
        clocks.advance(599)
        assert one.reason() is None
        one.heartbeat()
    clocks.advance(600)
    assert "silent" in str(one.reason())
    assert "lifetime" in str(restart().reason()), "a restart does not bring it back"


@pytest.mark.parametrize("jump_s", [-1e9, -86_400, 0])
def test_neither_heartbeats_nor_a_clock_set_back_nor_a_restart_extend_its_lifetime(
    restart: Restart, clocks: Clocks, jump_s: float
) -> None:
    one = restart()
    clocks.advance(1800)
    clocks.wall_s += jump_s
    again = restart()
    for _ in range(4):
        clocks.advance(449)
        for each in (one, again):
            each.heartbeat()
            assert each.reason() is None
    clocks.advance(4)
    for each in (one, again):
        each.heartbeat()
        assert "lifetime" in str(each.reason())


def test_a_clock_that_jumps_ahead_ends_it_early(restart: Restart, clocks: Clocks) -> None:
    one = restart()
    clocks.wall_s += 3600
    assert one.reason() is not None


def test_after_a_reboot_of_the_host_the_time_of_day_counts(restart: Restart, clocks: Clocks) -> None:
    restart()
    clocks.advance(3000)
    clocks.boot_s = 3.0
    one = restart()
    clocks.advance(599)
    assert one.reason() is None
    one.heartbeat()
    clocks.advance(1)
    assert "lifetime" in str(one.reason())


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"wall": "x", "boot": 1}', '{"wall": 1}', "[" * 10**5])
def test_an_unreadable_deadline_is_over(restart: Restart, tmp_path: Path, text: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/deadline.json").write_text(text)
    assert restart().reason() is not None


def test_a_deadline_that_cannot_be_written_counts_and_is_written_later(
    restart: Restart, tmp_path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("in the way")
    one = restart()
    for _ in range(10):
        assert one.reason() is None
    assert caplog.text.count("deadline.write_failed") == 1, "logged once for every reason"
    (tmp_path / "state").unlink()
    (tmp_path / "state/deadline.json").mkdir(parents=True)
    assert one.reason() is None
    assert caplog.text.count("deadline.write_failed") == 2
    (tmp_path / "state/deadline.json").rmdir()
    assert one.reason() is None
    written = json.loads((tmp_path / "state/deadline.json").read_text())
    assert written == {"wall": clocks.wall_s + 3600, "boot": clocks.boot_s + 3600}
    clocks.advance(3600)
    assert one.reason() is not None
