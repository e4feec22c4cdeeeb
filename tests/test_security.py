"""The tests that SECURITY.md names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = re.findall(r"`(tests/[\w/.]+)::(\w+)`", TEXT)


def test_every_named_test_exists() -> None:
    there = {path: _functions(ROOT / path) for path, _ in NAMED}
    assert [f"{path}::{name}" for path, name in NAMED if name not in there[path]] == []


def test_every_threat_names_one() -> None:
    threats = re.split(r"^### ", TEXT.partition("## Threats")[2].partition("## What is not held")[0], flags=re.M)[1:]
    assert len(threats) >= 9
    assert [threat.splitlines()[0] for threat in threats if "::test_" not in threat] == []


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
