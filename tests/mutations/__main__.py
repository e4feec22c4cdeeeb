"""`python -m tests.mutations`: break one promise after the other and see that the tests notice."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS, Mutation
from tests.mutations.runner import Outcome, Verdict, baseline, run

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 if every mutation is caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", metavar="NAME[,NAME]", help="run these mutations only")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutations at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="list the mutations and run nothing")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests on the unchanged code first")
    options = parser.parse_args(argv)
    mutations = _chosen(parser, options.only)
    if options.list:
        for mutation in mutations:
            print(f"{mutation.name}  {mutation.path}\n    {mutation.promise}\n    {' '.join(mutation.tests)}")
        return 0
    jobs = max(1, options.jobs)
    if not options.no_baseline and (output := baseline(ROOT, mutations, jobs=jobs)) is not None:
        print(f"{output}\nThe tests fail on the unchanged code; no mutation was tried.", file=sys.stderr)
        return 1
    verdicts = run(ROOT, mutations, jobs=jobs, report=_report)
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


def _chosen(parser: argparse.ArgumentParser, only: str | None) -> Sequence[Mutation]:
    if only is None:
        return MUTATIONS
    known = {mutation.name: mutation for mutation in MUTATIONS}
    names = [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown mutation: {', '.join(unknown)}")
    return [known[name] for name in names]


def _report(verdict: Verdict) -> None:
    print(f"{verdict.outcome:8}  {verdict.mutation.name}  {verdict.seconds:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
