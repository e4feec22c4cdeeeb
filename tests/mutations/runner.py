"""Applies mutations to copies of a tree and runs the tests that should notice. The tree itself stays as it is."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutations.catalogue import Mutation

TIMEOUT_S = 240.0
BASELINE_TIMEOUT_S = 900.0
# SQLite's variant of a test is enough to notice; PostgreSQL's costs a server per run.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not postgresql")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)


class Outcome(StrEnum):
    """What came of a mutation. Only CAUGHT is good."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    #: `before` does not occur exactly once: the catalogue needs an update.
    STALE = "stale"
    #: Pytest neither passed nor failed: an error of collection or usage, no tests, or a time-out.
    BROKEN = "broken"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one mutation."""

    mutation: Mutation
    outcome: Outcome
    #: The first test that failed, or why the outcome is stale or broken.
    reason: str
    seconds: float


def run(
    root: Path,
    mutations: Sequence[Mutation],
    *,
    jobs: int,
    timeout_s: float = TIMEOUT_S,
    report: Callable[[Verdict], object] = lambda verdict: None,
) -> list[Verdict]:
    """Try every mutation on copies of the tree at `root`, `jobs` at a time, and return the verdicts in order."""
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()

    def judge(mutation: Mutation) -> Verdict:
        tree = copies.get()
        try:
            verdict = _judge(tree, mutation, timeout_s)
        finally:
            copies.put(tree)
        report(verdict)
        return verdict

    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(jobs) as pool:
        for number in range(min(jobs, len(mutations))):
            copies.put(copy_tree(root, Path(folder) / str(number)))
        return list(pool.map(judge, mutations))


def baseline(
    root: Path, mutations: Sequence[Mutation], *, jobs: int = 1, timeout_s: float = BASELINE_TIMEOUT_S
) -> str | None:
    """Run the tests of all mutations on an unchanged copy. Returns pytest's output unless they pass."""
    selectors = list(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = copy_tree(root, Path(folder) / "unchanged")
        spread = ["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else []
        status, output = _pytest(tree, [*spread, *selectors], timeout_s)
    return None if status == 0 else output or f"no end within {timeout_s:g} s"


def mutated(text: str, mutation: Mutation) -> str:
    """The text with the mutation applied. Raises ValueError unless `before` occurs exactly once."""
    if (count := text.count(mutation.before)) != 1:
        raise ValueError(f"`before` occurs {count} times in {mutation.path}")
    return text.replace(mutation.before, mutation.after)


def copy_tree(root: Path, to: Path) -> Path:
    """Copy the files that Git tracks or would track, and link the virtual environment."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    to.mkdir(parents=True)
    for name in filter(None, listed.split("\0")):
        source, target = root / name, to / name
        if name == ".venv" or not (source.is_file() or source.is_symlink()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    if (root / ".venv").exists():
        (to / ".venv").symlink_to((root / ".venv").resolve())
    return to


def _judge(tree: Path, mutation: Mutation, timeout_s: float) -> Verdict:
    began_at = time.monotonic()
    try:
        with _applied(tree / mutation.path, mutation):
            status, output = _pytest(tree, ["-x", *mutation.tests], timeout_s)
    except (OSError, ValueError) as error:
        return Verdict(mutation, Outcome.STALE, str(error), time.monotonic() - began_at)
    except SyntaxError as error:
        return Verdict(mutation, Outcome.BROKEN, f"`after` is not valid Python: {error}", time.monotonic() - began_at)
    seconds = time.monotonic() - began_at
    failed = _FAILED.search(output)
    if status == 1 and failed is not None:
        return Verdict(mutation, Outcome.CAUGHT, failed[1], seconds)
    if status == 0:
        return Verdict(mutation, Outcome.SURVIVED, "", seconds)
    last = output.strip().rpartition("\n")[2]
    why = f"no end within {timeout_s:g} s" if status is None else f"pytest exited with {status}: {last}"
    return Verdict(mutation, Outcome.BROKEN, why, seconds)


@contextmanager
def _applied(path: Path, mutation: Mutation) -> Iterator[None]:
    original = path.read_text()
    changed = mutated(original, mutation)
    compile(changed, str(path), "exec")
    path.write_text(changed)
    try:
        yield
    finally:
        path.write_text(original)


def _pytest(tree: Path, arguments: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    """Pytest's exit status and output; None for the status when it did not end in time."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*PYTEST, *arguments], cwd=tree, env=environ, stdout=output, stderr=output, start_new_session=True
        )
        status: int | None = None
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):  # what the tests left behind goes too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return status, output.read()
