"""`python -m tests.mutations`: break one promise after the other and see that the tests notice."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.runner import Outcome, Verdict, baseline, run

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if every mutation is caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    known = {mutation.name: mutation for mutation in MUTATIONS}
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help="run these mutations only")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutations at a time (default: 2)")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests on the unchanged code first")
    options = parser.parse_args(argv)
    mutations = [known[name] for name in options.only] if options.only else MUTATIONS
    jobs = max(1, options.jobs)
    if not options.no_baseline and (output := baseline(ROOT, mutations, jobs=jobs)) is not None:
        print(f"{output}\nThe tests fail on the unchanged code; no mutation was tried.", file=sys.stderr)
        return 1
    verdicts = run(
        ROOT,
        mutations,
        jobs=jobs,
        report=lambda one: print(one.outcome, one.mutation.name, file=sys.stderr, flush=True),
    )
    print(table(verdicts))
    return 0 if all(verdict.outcome is Outcome.CAUGHT for verdict in verdicts) else 1


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table, and a line that sums them up."""
    rows = ["| mutation | promise | outcome | caught by | seconds |", "|---|---|---|---|---:|"]
    for verdict in verdicts:
        name, promise = verdict.mutation.name, verdict.mutation.promise
        rows.append(f"| {name} | {promise} | {verdict.outcome} | {verdict.reason} | {verdict.seconds:.1f} |")
    caught = sum(verdict.outcome is Outcome.CAUGHT for verdict in verdicts)
    return "\n".join([*rows, "", f"{caught} of {len(verdicts)} mutations caught"])


if __name__ == "__main__":
    sys.exit(main())
