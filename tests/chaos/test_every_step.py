"""Gateway and worker killed at every step of a job's life, and at a second one after the restart."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from common.clock import SystemClock
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.storage.local import LocalStorage
from tests.chaos import steps
from tests.chaos.matrix import matrix
from tests.chaos.runs import Run, pairs, table
from tests.chaos.steps import Book, Point

KEY = "uploads/key_01JABCDEFGHJKMNPQRSTVWXYZ0/01JABCDEFGHJKMNPQRSTVWXYZ0"
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


def _store_a_file(folder: Path) -> None:
    steps.install("gateway", folder)
    settings = Settings(data_dir=folder)
    LocalStorage(settings, Signer(("x" * 32,)), SystemClock()).write(KEY, [b"file"], 4)


def test_steps_are_found_and_processes_die_there(tmp_path: Path) -> None:
    book = Book(tmp_path)

    def run(*deaths: Point) -> int | None:
        book.open(*deaths)
        process = multiprocessing.get_context("forkserver").Process(target=_store_a_file, args=(tmp_path,))
        process.start()
        process.join(20)
        return process.exitcode

    replacing = "replace in local.write > local._write_whole"
    assert run() == 0
    names = [point.name for point in book.close().points()]
    assert names[-2:] == [f"gateway before {replacing}", f"gateway after {replacing}"]
    assert len([name for name in names if "mkdir" in name]) == 2 * len(["files", "uploads", "the key's"])
    assert run(Point(f"gateway before {replacing}", 1)) == steps.KILLED
    assert book.close().died[0][1] == f"gateway before {replacing}"
    parts = [path.name for path in (tmp_path / "files" / KEY).parent.iterdir() if path.name != Path(KEY).name]
    assert len(parts) == 1, "a death cleans up nothing"
