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


def test_defaults_count_and_text_ones_are_parsed() -> None:
    assert read(Sample, {}) == Sample(8000, ("a", "b"), Path("data").absolute(), None, False)


def test_variables_are_read_by_the_upper_case_name() -> None:
    got = read(
        Sample,
        {"PORT": "9000", "NAMES": " x ,, y ", "FOLDER": "/srv/x", "BASE_URL": "http://gateway:8000", "DEBUG": "1"},
    )
    assert got == Sample(9000, ("x", "y"), Path("/srv/x"), "http://gateway:8000", True)


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert read(Sample, {"FOLDER": "~/media"}).folder == Path("/home/someone/media")


@pytest.mark.parametrize("empty", ["", "   ", "\t"])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    assert read(Sample, {"PORT": empty, "NAMES": empty, "BASE_URL": empty}) == read(Sample, {})


def test_all_mistakes_are_reported_together_by_the_variable_s_name() -> None:
    with pytest.raises(SettingsError) as caught:
        read(Sample, {"PORT": "70000", "BASE_URL": "nonsense", "DEBUG": "perhaps", "NAMES": "fine"})
    assert all(f"{name}: " in str(caught.value) for name in ("PORT", "BASE_URL", "DEBUG"))
    assert "NAMES" not in str(caught.value)


def test_other_variables_of_the_environment_are_none_of_our_business() -> None:
    assert read(Sample, {"PATH": "/bin", "port": "1", "Port": "2"}) == read(Sample, {})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        read(Sample, {}).port = 1  # type: ignore[misc]


def test_dotenv_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=1111\nNAMES=from, file\nBASE_URL\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "2222")
    monkeypatch.delenv("NAMES", raising=False)
    got = read(Sample)
    assert (got.port, got.names, got.base_url) == (2222, ("from", "file"), None)


def test_reading_dotenv_does_not_change_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("NAMES=from file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAMES", raising=False)
    read(Sample)
    assert "NAMES" not in os.environ


def test_a_given_mapping_is_all_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=1111\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "2222")
    assert read(Sample, {}).port == 8000


def test_the_example_names_every_variable_with_meaning_and_default() -> None:
    text = example(Sample)
    assert "# Port to listen on.\n#PORT=8000\n" in text
    assert "#NAMES=a, b\n" in text
    assert "#BASE_URL=\n" in text


def test_the_example_with_every_line_switched_on_means_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in example(Sample).splitlines()
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "NAMES", "FOLDER", "BASE_URL", "DEBUG"):
        monkeypatch.delenv(name, raising=False)
    assert read(Sample) == read(Sample, {})
