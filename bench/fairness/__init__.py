"""What one key at its worst does to another: the victim's latency, jobs and webhooks, quiet and under each attack.

Every attack gets a gateway of its own, as in production: on two cores, with its dispatcher, SQLite and the default
limits. Its provider is the stand-in for RunPod, which takes 150 ms for every call. The attacker is a process of the
lowest priority with a key and an address of its own. The bar: the victim's p99 is at most three times its quiet value
or 250 ms, `/health` takes at most 250 ms, jobs and webhooks begin within twice the quiet time or 250 ms, and no request
of the victim is refused.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.table import Table

from bench.fairness.attacks import ATTACKS
from bench.fairness.compare import COLUMNS, compare, row
from bench.fairness.sizes import Sizes
from bench.figures import Figure


def measure(only: str = "", sizes: Sizes = Sizes()) -> list[Figure]:  # noqa: B008 - it is frozen
    """`only`: names of attacks, separated by commas; all of them if empty."""
    known = [attack.name for attack in ATTACKS]
    names = only.split(",") if only else known
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"unknown attacks: {', '.join(unknown)}; known are {', '.join(known)}")
    chosen = [attack for attack in ATTACKS if attack.name in names]
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as folder:
        return [figure for attack in chosen for figure in compare(Path(folder) / attack.name, attack, sizes)]


def table(figures: list[Figure]) -> Table:
    """One row an attack: quiet → attacked (ratio)."""
    values = {figure.name: figure.value for figure in figures}
    shown = Table("Attack", *(title for _, title in COLUMNS), "Refused", "Holds")
    for attack in ATTACKS:
        if f"fairness.{attack.name}.holds" in values:
            shown.add_row(attack.title, *row(attack.name, values))
    return shown
