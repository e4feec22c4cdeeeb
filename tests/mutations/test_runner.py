"""`tests.mutations.runner`, on a tiny tree; and the catalogue, on today's code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mutations import __main__ as command
from tests.mutations.catalogue import MUTATIONS, Mutation
from tests.mutations.runner import Outcome, baseline, mutated, run

PRODUCT = "def half(n):\n    return n / 2\n\n\ndef name():\n    return 'half'\n"
TEST = "from product import half\n\n\ndef test_half():\n    assert half(4) == 2\n"
CAUGHT = Mutation("caught", "halves", "product.py", "n / 2", "n", ("test_product.py",))
SURVIVOR = Mutation("survivor", "has a name", "product.py", "'half'", "'double'", ("test_product.py",))
STALE = Mutation("stale", "thirds", "product.py", "n / 3", "n", ("test_product.py",))
TWICE = Mutation("twice", "occurs twice", "product.py", "half", "third", ("test_product.py",))
NO_PYTHON = Mutation("no-python", "is Python", "product.py", "n / 2", "n /", ("test_product.py",))
NO_TESTS = Mutation("no-tests", "is tested", "product.py", "n / 2", "n", ("test_missing.py",))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "product.py").write_text(PRODUCT)
    (tmp_path / "test_product.py").write_text(TEST)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


@pytest.mark.slow
def test_every_outcome_is_told_apart_and_the_tree_stays_as_it_is(tree: Path) -> None:
    verdicts = run(tree, [CAUGHT, SURVIVOR, STALE, TWICE, NO_PYTHON, NO_TESTS], jobs=1)
    assert {verdict.mutation.name: verdict.outcome for verdict in verdicts} == {
        "caught": Outcome.CAUGHT,
        "survivor": Outcome.SURVIVED,
        "stale": Outcome.STALE,
        "twice": Outcome.STALE,
        "no-python": Outcome.BROKEN,
        "no-tests": Outcome.BROKEN,
    }
    assert verdicts[0].reason == "test_product.py::test_half"
    assert (tree / "product.py").read_text() == PRODUCT


def test_a_run_that_does_not_end_in_time_is_broken(tree: Path) -> None:
    (tree / "test_product.py").write_text("import time\n\n\ndef test_half():\n    time.sleep(60)\n")
    (verdict,) = run(tree, [CAUGHT], jobs=1, timeout_s=0.5)
    assert verdict.outcome is Outcome.BROKEN


@pytest.mark.slow
def test_the_unchanged_code_has_to_pass(tree: Path) -> None:
    assert baseline(tree, [CAUGHT, SURVIVOR]) is None
    (tree / "product.py").write_text(PRODUCT.replace("/ 2", "/ 3"))
    assert "test_half" in str(baseline(tree, [CAUGHT]))


@pytest.mark.slow
@pytest.mark.parametrize(("mutation", "status"), [(CAUGHT, 0), (SURVIVOR, 1), (STALE, 1)])
def test_the_command_fails_unless_all_are_caught(
    mutation: Mutation, status: int, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROOT", tree)
    monkeypatch.setattr(command, "MUTATIONS", (mutation,))
    assert command.main(["--no-baseline", "--jobs", "1"]) == status
    assert f"| {mutation.name} |" in capsys.readouterr().out


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_applies_once_and_is_valid_python(mutation: Mutation) -> None:
    compile(mutated((command.ROOT / mutation.path).read_text(), mutation), mutation.path, "exec")
    missing = [test for test in mutation.tests if not (command.ROOT / test.partition("::")[0]).is_file()]
    assert missing == []


def test_every_mutation_has_a_name_of_its_own() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
