"""Gateway, dispatcher and workers killed at random while clients submit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.load import Load

pytestmark = pytest.mark.slow


def test_every_acknowledged_job_ends_and_none_is_done_twice(tmp_path: Path) -> None:
    report = Load(tmp_path, seed=11, pretend=False).run(200)
    print(f"\n{report}")
    assert report.wrong == []
    assert min(report.kills.values()) >= 3 and len(report.kills) == 3
    assert report.ends["completed"] >= 195
