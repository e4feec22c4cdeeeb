"""Gateway and worker run with their own requirements only, and all pins come from one resolution."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = ["requirements.txt", "gateway/requirements.txt", "handler/requirements.txt"]
CLIENTS = "tests/generated_clients/requirements.txt"
LOCKS = ["tests/s3/package-lock.json", "tests/generated_clients/package-lock.json"]

GATEWAY = """
import sys
from pathlib import Path
from gateway import create_app
from gateway.settings import Settings
app = create_app(Settings(providers=("local",), secret_key=("x" * 32,), data_dir=Path(sys.argv[1])))
rules = {rule.rule for rule in app.url_map.iter_rules()}
assert {"/video/caption", "/video/img2vid", "/video/adicionaAudio", "/jobs", "/files"} <= rules, rules
spec = app.test_client().get("/openapi.json")
assert spec.status_code == 200 and "/video/caption" in spec.get_json()["paths"]
assert app.test_client().get("/docs/").status_code == 200
import gateway.__main__, gateway.dispatch.loop, gateway.cli, gateway.storage.s3, psycopg
from gateway.db.migrations import migrate
migrate(Settings(providers=("local",), secret_key=("x" * 32,), data_dir=Path(sys.argv[1])))
"""

WORKER = """
import importlib
import handler.http_worker, handler.__main__
from ffmpeg_ops.operation import OPERATIONS
assert {"caption", "img2vid", "adicionaAudio"} <= set(OPERATIONS)
for operation in OPERATIONS.values():
    assert callable(importlib.import_module(f"{operation.package}.run").run)
"""

ABSENT = """
import importlib.util
there = [name for name in {names!r} if importlib.util.find_spec(name)]
assert not there, there
"""


def pins(name: str) -> dict[str, str]:
    """Package → its whole line, without comments."""
    return {re.split(r"[=<>~!\[ ;@]", line)[0].lower(): line for line in pinned(name)}


def pinned(name: str) -> list[str]:
    """The lines that name packages, without comments and hashes."""
    lines = [line.partition(" #")[0].strip(" \\") for line in (ROOT / name).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "--hash="))]


def uv(*arguments: str) -> None:
    tool = Path(sys.executable).with_name("uv")
    # with the machine's certificates, like pip
    subprocess.run([tool, "--quiet", "--system-certs", *arguments], check=True, timeout=300)


def run_alone(requirements: str, folder: Path, script: str, absent: list[str]) -> None:
    """Run `script` from the repository, in an environment that has `requirements` and nothing else."""
    uv("venv", "--python", sys.executable, str(folder / "venv"))
    python = folder / "venv/bin/python"
    uv("pip", "install", "--python", str(python), "-r", str(ROOT / requirements))
    # without a home, a `.env` or the caller's settings
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    code = script + ABSENT.format(names=absent)
    done = subprocess.run(
        [python, "-c", code, str(folder / "data")], cwd=folder, env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*FILES, CLIENTS])
def test_every_line_is_one_exact_pin(name: str) -> None:
    for line in pins(name).values():
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][^ ]*( ; .+)?$", line), line


@pytest.mark.parametrize("name", FILES[1:])
def test_every_package_of_an_image_has_hashes(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        assert re.fullmatch(r"[^ ]+==[^ ]+( ; .+?)?( +--hash=sha256:[0-9a-f]{64})+", line), line[:80]


@pytest.mark.parametrize("name", [*FILES, CLIENTS, *(name.replace(".txt", ".in") for name in (*FILES, CLIENTS))])
def test_no_file_names_an_index_or_a_host(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host|file:|@ ", text)


@pytest.mark.parametrize("name", LOCKS)
def test_npm_packages_are_pinned_with_hashes_and_come_from_the_public_registry(name: str) -> None:
    whole, *packages = json.loads((ROOT / name).read_text())["packages"].values()
    for wanted in (*whole["dependencies"].values(), *whole.get("optionalDependencies", {}).values()):
        assert re.fullmatch(r"\d+\.\d+\.\d+", wanted)
    for package in packages:
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]+=*", package["integrity"]), package
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")


def test_the_documented_generators_are_those_of_the_tests() -> None:
    npm = json.loads((ROOT / LOCKS[1]).with_name("package.json").read_text())["dependencies"]
    python = dict(line.split("==") for line in pinned(CLIENTS) if ";" not in line)
    documented = re.findall(r"^\|.*\| ([\d.]+) \| `([a-z-]+) ", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert len(documented) == 5
    for version, program in documented:
        assert version in {python.get(program), npm.get(program), npm.get(f"@hey-api/{program}")}, program


@pytest.mark.parametrize("name", FILES[1:])
def test_both_sides_have_the_pins_of_the_whole(name: str) -> None:
    whole = pins("requirements.txt")
    for package, line in pins(name).items():
        # what numpy is pinned to depends on Python: compare every line of the package
        mine = sorted(lines_of(name, package))
        assert mine == sorted(lines_of("requirements.txt", package)), line
        assert package in whole


def lines_of(name: str, package: str) -> list[str]:
    return [line for line in pinned(name) if re.match(rf"{re.escape(package)}[=\[]", line)]


@pytest.mark.slow
def test_the_gateway_runs_with_its_own_requirements_alone(tmp_path: Path) -> None:
    absent = ["cv2", "numpy", "PIL", "pysubs2", "runpod", "pytest"]
    run_alone("gateway/requirements.txt", tmp_path, GATEWAY, absent)


@pytest.mark.slow
def test_the_worker_runs_with_its_own_requirements_alone(tmp_path: Path) -> None:
    absent = ["sqlalchemy", "alembic", "flask_smorest", "flask_swagger_ui", "ulid", "pytest"]
    run_alone("handler/requirements.txt", tmp_path, WORKER, absent)
