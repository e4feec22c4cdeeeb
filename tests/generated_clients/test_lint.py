"""Redocly's linter finds nothing in the documents that the gateway serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway import create_app
from gateway.settings import Settings
from scripts.stack import Stack
from tests.generated_clients.conftest import Failed, run

pytestmark = pytest.mark.slow


def lint(document: Path) -> None:
    """Raises Failed at a single finding: `recommended-strict` makes every warning an error."""
    run("redocly", "lint", "--extends", "recommended-strict", "--max-problems", "500", document, cwd=document.parent)


@pytest.mark.parametrize("name", ["openapi.json", "openapi-worker.json"])
def test_nothing_is_found(name: str, documents: Path) -> None:
    lint(documents / name)


def test_a_finding_fails(document: Path, tmp_path: Path) -> None:
    spec = json.loads(document.read_bytes())
    del spec["paths"]["/jobs"]["get"]["operationId"]
    (tmp_path / "openapi.json").write_text(json.dumps(spec))
    with pytest.raises(Failed, match="operation-operationId"):
        lint(tmp_path / "openapi.json")


def test_the_document_is_that_of_the_other_tests(document: Path, stack: Stack, tmp_path: Path) -> None:
    settings = Settings(providers=("local",), secret_key=("x" * 32,), data_dir=tmp_path, public_url=stack.url)
    assert create_app(settings).test_client().get("/openapi.json").get_data() == document.read_bytes()
