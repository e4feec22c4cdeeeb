"""Settings from environment variables and `.env`."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import pytest
from marshmallow import fields, validate

from common.settings import CommaList, Folder, SettingsError, example, read, setting


@dataclass(frozen=True)
class Sample:
    port: int = setting(fields.Integer(validate=validate.Range(1, 65535)), 8000, "Port to listen on.")
    names: tuple[str, ...] = setting(CommaList(), "a, b", "Names in order.")
    folder: Path = setting(Folder(), "data", "Where things lie.")
    base_url: str | None = setting(fields.Url(require_tld=False), None, "How others reach it.")
    debug: bool = setting(fields.Boolean(), False, "Say more.")


def test_textual_defaults_are_parsed_and_other_variables_ignored() -> None:
    assert (
        read(Sample, {"PATH": "/bin", "port": "1", "Port": "2"})
        == read(Sample, {})
        == Sample(8000, ("a", "b"), Path("data").absolute(), None, False)
    )


def test_variables_have_the_upper_case_name_of_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    given = {"PORT": "9000", "NAMES": " x ,, y ", "FOLDER": "~/x", "BASE_URL": "http://gateway:8000", "DEBUG": "1"}
    got = read(Sample, given)
    assert got == Sample(9000, ("x", "y"), Path("/home/someone/x"), "http://gateway:8000", True)
    with pytest.raises(FrozenInstanceError):
        got.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("empty", ["", "   ", "\t"])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    assert read(Sample, {"PORT": empty, "NAMES": empty, "BASE_URL": empty}) == read(Sample, {})


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        read(Sample, {"PORT": "70000", "BASE_URL": "nonsense", "DEBUG": "perhaps", "NAMES": "fine"})
    assert all(f"{name}: " in str(caught.value) for name in ("PORT", "BASE_URL", "DEBUG"))
    assert "NAMES" not in str(caught.value)


def test_dotenv_is_read_and_the_environment_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=1111\nNAMES=from, file\nBASE_URL\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "2222")
    monkeypatch.delenv("NAMES", raising=False)
    got = read(Sample)
    assert (got.port, got.names, got.base_url) == (2222, ("from", "file"), None)
    assert "NAMES" not in os.environ
    assert read(Sample, {}).port == 8000, "a mapping replaces both"


def test_the_example_lists_every_variable_with_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "# Port to listen on.\n#PORT=8000\n" in example(Sample)
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in example(Sample).splitlines()
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "NAMES", "FOLDER", "BASE_URL", "DEBUG"):
        monkeypatch.delenv(name, raising=False)
    assert read(Sample) == read(Sample, {})
