"""The documentation agrees with the code."""

from __future__ import annotations

import re
from decimal import Decimal
from math import prod
from pathlib import Path

import click
import pytest
from flask import Flask

from common.settings import variables
from gateway import cli
from gateway.domain.prices import TrafficPrice
from gateway.providers.clouds.vast import reap
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.cloud import Offer
from gateway.providers.rental.comparison import rental_nano
from gateway.providers.runpod.endpoint.form import FORM
from gateway.providers.runpod.endpoint.plan import Plan
from gateway.providers.runpod.endpoint.wanted import Wanted, load
from gateway.providers.runpod.gpus import POOLS
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
def test_named_make_targets_and_modules_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word for line in re.findall(r"\bmake ((?:[a-z-]+ )*[a-z-]+) *[#`\n]", page.read_text()) for word in line.split()
    }
    assert named <= targets
    modules = re.findall(r"python -m ((?:gateway|handler|scripts|bench)[\w.]*)", page.read_text())
    assert [m for m in modules if not _module_exists(m)] == []


def test_the_first_hour_has_twelve_complete_items() -> None:
    """Each has a command, what should be seen, and what to do otherwise."""
    items = re.split(r"^## (\d+)\. ", (ROOT / "docs/first-hour.md").read_text(), flags=re.MULTILINE)[1:]
    assert [int(number) for number in items[::2]] == list(range(1, 13))
    parts = ("```sh\n", "- **Should be seen:** ", "- **Otherwise:** ")
    assert [item.splitlines()[0] for item in items[1::2] if any(part not in item for part in parts)] == []


def test_every_field_of_the_endpoint_is_explained_in_terms_of_the_form() -> None:
    body = load(ROOT / "runpod.toml", image="acme/worker:1").body
    paths = {line.path for line in Plan(Wanted({**body, "env": {}}, ()), None).lines}
    assert paths | {"type", "env"} == set(FORM)


def test_the_costs_of_runpod_are_correct() -> None:
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_commands_exist(page: Path) -> None:
    lines = re.findall(r"flask --app gateway ([a-z][a-z -]*[a-z])", page.read_text())
    app = Flask(__name__)
    cli.register(app)
    for line in lines:
        command: click.Command = app.cli
        for word in line.partition(" --")[0].split():
            if isinstance(command, click.Group):  # else the word is an argument
                found = command.get_command(click.Context(command), word)
                assert found is not None, line
                command = found
        known = {name for option in command.params for name in option.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_the_costs_of_vast_are_correct() -> None:
    page = (ROOT / "docs/vast.md").read_text()
    offer = Offer(1, 1, "RTX 3090", 200_000_000, TrafficPrice(down=20_000_000, up=20_000_000))
    row = r"^\| .*? \| (120 \+ .*? \+ 300) s = (\d+) s: \$(\S+) \| (\S+) GB: \$(\S+) \| \$(\S+) \|$"
    rows = re.findall(row, page, re.MULTILINE)
    assert [round(rental_nano(offer, VastSettings(), jobs) / 1e9, 4) for jobs in (1, 10, 100)] == [
        float(cost) for *_, cost in rows
    ]
    for parts, seconds, time_cost, gigabytes, traffic_cost, cost in rows:
        boot, work, idle = parts.split(" + ")
        assert int(boot) + prod(map(int, work.split(" × "))) + int(idle) == int(seconds)
        assert Decimal(gigabytes) * Decimal("0.02") == Decimal(traffic_cost)
        assert Decimal(time_cost) + Decimal(traffic_cost) == Decimal(cost)


def test_the_limits_of_cost_are_the_defaults() -> None:
    page = (ROOT / "docs/vast.md").read_text()
    rows = re.findall(r"^\| `(VAST_\w+)` \| \$?([\d.]+)", page, re.MULTILINE)
    defaults = {name: field.default for name, field in variables(VastSettings).items()}
    assert len(rows) == 7
    assert [float(shown) for _, shown in rows] == [defaults[name] for name, _ in rows]


def test_the_reaper_does_what_its_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", "key")
    page = (ROOT / "docs/vast.md").read_text().partition("## The reaper")[2].partition("## Troubleshooting")[0]
    named = set(re.findall(r"`(--[a-z-]+)`", page))
    defaults = vars(reap.arguments(["--deployment", "main"]))
    assert {name.removeprefix("--").replace("-", "_") for name in named} <= defaults.keys()
    assert f"`VAST_MAX_LIFETIME` plus {reap.GRACE_S} s" in page
    assert (defaults["limit"], defaults["max_age"]) == (10, 21600 + 900)
    assert VastSettings().max_lifetime == reap.LIFETIME_S


def _module_exists(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()
