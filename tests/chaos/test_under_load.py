"""Gateways, dispatchers and workers killed at random while clients submit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.load import Load
from tests.postgres import postgres_server

pytestmark = pytest.mark.slow


def check(load: Load, jobs: int) -> None:
    """Every acknowledged job ends, and none is done twice."""
    report = load.run(jobs)
    print(f"\n{report}")
    assert report.wrong == []
    assert min(report.kills.values()) >= 3 and len(report.kills) == 3
    assert report.ends["completed"] >= 0.975 * jobs


def test_one_gateway_on_sqlite(tmp_path: Path) -> None:
    check(Load(tmp_path, seed=11, pretend=False), 200)


def test_two_gateways_and_two_dispatchers_on_one_postgresql(tmp_path: Path) -> None:
    with postgres_server() as server, server.database() as database:
        check(Load(tmp_path, seed=5, pretend=True, gateways=2, database=database), 200)
