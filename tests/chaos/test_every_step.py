"""Gateway and worker killed at every step of a job's life, and at a second one after the restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.matrix import matrix
from tests.chaos.runs import Run, pairs, table

SEED = 5
# All of them: `python -m bench chaos`.
PAIRS = 200
# Steps that only a slow run reaches, such as one more poll, may not be reached again.
REACHED = 0.85


@pytest.mark.slow
def test_a_death_at_any_step_loses_nothing(tmp_path: Path) -> None:
    with matrix(tmp_path, seed=SEED) as chaos:
        clean = chaos.clean()
        points = chaos.points(clean)
        print(f"\n{len(points)} points: {sum('gateway' in point.name for point in points)} of the gateway")
        print(table("no death", clean))
        once = chaos.faulty(Run((point,)) for point in points)
        print(table("one death", once))
        twice = chaos.faulty(chaos.some(pairs(once), PAIRS))
        print(table("two deaths", twice))
    assert len(points) > 90, "the hooks find less than there is"
    assert [str(outcome) for outcome in [*clean, *once, *twice] if outcome.wrong] == []
    assert sum(outcome.reached for outcome in once) >= REACHED * len(once)
