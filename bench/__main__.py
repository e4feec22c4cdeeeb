"""`python -m bench NAME [--json] [--jobs N] [--rentals N] [--quick] [--only A,B]`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys

from rich.console import Console
from rich.table import Table

import bench
from bench.figures import Figure
from common import log


def main() -> int:
    names = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name not in {"__main__", "figures"})
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__)
    parser.add_argument("name", choices=names)
    parser.add_argument("--json", action="store_true", help="one flat object of figures on standard output, no table")
    parser.add_argument("--jobs", type=int, help="for chaos: the number of jobs under random kills")
    parser.add_argument("--rentals", type=int, help="for chaos: the number of random runs with a rented machine")
    parser.add_argument("--quick", action="store_true", default=None, help="for memory: only a few inputs")
    parser.add_argument("--only", metavar="A,B", help="for fairness: names of attacks")
    chosen = parser.parse_args()
    given = {"jobs": chosen.jobs, "rentals": chosen.rentals, "quick": chosen.quick, "only": chosen.only}
    options = {name: value for name, value in given.items() if value is not None}
    if chosen.name != "chaos" and {"jobs", "rentals"} & options.keys():
        parser.error("only chaos takes --jobs and --rentals")
    if chosen.name != "memory" and "quick" in options:
        parser.error("only memory takes --quick")
    if chosen.name != "fairness" and "only" in options:
        parser.error("only fairness takes --only")
    log.configure("WARNING")  # to standard error
    module = importlib.import_module(f"bench.{chosen.name}")
    figures: list[Figure] = module.measure(**options)
    if chosen.json:
        json.dump({figure.name: figure.value for figure in figures}, sys.stdout, indent=2)
        print()
        return 0
    Console().print(getattr(module, "table", _table)(figures))
    return 0


def _table(figures: list[Figure]) -> Table:
    """One row a figure, for benchmarks without a `table` of their own."""
    table = Table("Figure", "Value", "Target", "Meaning")
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:g} {figure.unit}", figure.target, figure.meaning)
    return table


if __name__ == "__main__":
    sys.exit(main())
