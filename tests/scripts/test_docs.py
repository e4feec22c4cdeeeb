"""The documentation is true."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.endpoint.form import FORM
from gateway.endpoint.plan import Plan
from gateway.endpoint.wanted import Wanted, load
from gateway.gpus import POOLS
from scripts import docs
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", list(docs.generated()), ids=lambda path: path.name)
def test_generated_documentation_is_fresh(path: Path) -> None:
    assert path.read_text() == docs.generated()[path], "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_modules_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word for line in re.findall(r"\bmake ((?:[a-z]+ ?)+?)(?= *[#`\n])", page.read_text()) for word in line.split()
    }
    assert named <= targets
    modules = re.findall(r"python -m ((?:gateway|handler|scripts|bench)[\w.]*)", page.read_text())
    assert [m for m in modules if not _module_exists(m)] == []


def test_every_field_of_the_endpoint_is_explained_in_the_words_of_the_form() -> None:
    body = load(ROOT / "runpod.toml", image="acme/worker:1").body
    paths = {line.path for line in Plan(Wanted({**body, "env": {}}, ()), None).lines}
    assert paths | {"type", "env"} == set(FORM)


def test_what_runpod_costs_is_worked_out_right() -> None:
    page = (ROOT / "docs/runpod.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \|.*?\| \$(\S+) \| \$(\S+) \| \$(\S+) \| \$(\S+) \| (?:yes|\*\*no\*\*) \|$", page, re.MULTILINE
    )
    assert [row[0] for row in rows] == list(POOLS)
    for _, second, job, tail, both in rows:
        assert Decimal(job) == 10 * Decimal(second)
        assert Decimal(tail) == 300 * Decimal(second)
        assert Decimal(both) == 310 * Decimal(second)
    # RTX A4000 and its like, $0.00016: 100 × 310 s, and 100 × 10 s + 300 s
    assert "= 31000 s | $4.96 |" in page
    assert "= 1300 s | $0.208 |" in page


def _module_exists(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()
