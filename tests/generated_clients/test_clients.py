"""Clients that are generated from the document of a live gateway compile, and work with it: jobs, files and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.generated_clients.conftest import DRIVERS, PYTHON, Failed, copy_driver, run

pytestmark = pytest.mark.slow

# `skipLibCheck` leaves out the declarations of packages, not the generated code.
TSC = ("tsc", "--strict", "--target", "es2023", "--module", "nodenext", "--types", "node", "--skipLibCheck")
IMPORT_ALL = """
import importlib, pkgutil, reelay_client
for module in pkgutil.walk_packages(reelay_client.__path__, "reelay_client."):
    importlib.import_module(module.name)
"""


def test_openapi_python_client(document: Path, tmp_path: Path, target: dict[str, str]) -> None:
    openapi_python_client(document, tmp_path)
    drive_python("openapi_python_client.py", tmp_path, target)


def test_openapi_generator_for_python(document: Path, tmp_path: Path, target: dict[str, str]) -> None:
    openapi_generator("python", document, tmp_path, "--package-name", "reelay_client")
    drive_python("openapi_generator.py", tmp_path, target)


def test_openapi_generator_for_typescript(document: Path, project: Path, target: dict[str, str]) -> None:
    openapi_generator("typescript-fetch", document, project / "client")
    drive_typescript("typescript_fetch.ts", project, target)


def test_openapi_typescript_with_openapi_fetch(document: Path, project: Path, target: dict[str, str]) -> None:
    # Without the option, every field that has a default would be required.
    command = ["openapi-typescript", document, "--default-non-nullable", "false", "--output", "client/schema.ts"]
    run(*command, cwd=project)
    drive_typescript("openapi_fetch.ts", project, target)


def test_hey_api(document: Path, project: Path, target: dict[str, str]) -> None:
    run("openapi-ts", "--input", document, "--output", "client", cwd=project)
    drive_typescript("hey_api.ts", project, target)


def test_a_part_that_a_generator_leaves_out_fails(document: Path, tmp_path: Path) -> None:
    spec = json.loads(document.read_bytes())
    spec["paths"]["/files"]["post"]["requestBody"]["content"] = {"text/vnd.reelay": {"schema": {"type": "string"}}}
    (tmp_path / "openapi.json").write_text(json.dumps(spec))
    with pytest.raises(Failed, match="Unsupported content type"):
        openapi_python_client(tmp_path / "openapi.json", tmp_path)


def openapi_python_client(document: Path, folder: Path) -> None:
    options = ["--path", document, "--meta", "none", "--fail-on-warning"]
    run("openapi-python-client", "generate", *options, "--output-path", folder / "reelay_client", cwd=folder)


def openapi_generator(language: str, document: Path, output: Path, *options: str) -> None:
    run("openapi-generator-cli", "generate", "-g", language, "-i", document, "-o", output, *options, cwd=output.parent)


def drive_python(driver: str, folder: Path, target: dict[str, str]) -> None:
    """Import every module of the generated `reelay_client` in `folder`, then run the driver with it."""
    run(PYTHON, "-c", IMPORT_ALL, cwd=folder, PYTHONPATH=str(folder))
    run(PYTHON, DRIVERS / driver, cwd=folder, PYTHONPATH=str(folder), **target)


def drive_typescript(driver: str, folder: Path, target: dict[str, str]) -> None:
    """Compile all that was generated in `client/`, and the driver, then run the driver."""
    run(*TSC, *(folder / "client").rglob("*.ts"), copy_driver(driver, folder), cwd=folder)
    run("node", Path(driver).with_suffix(".js"), cwd=folder, **target)
