"""`handler.certificate.make`: what a worker shows to the gateway."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

import pytest

from handler import certificate


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_private_key_does_not_stay_on_the_disk(temporary: Path) -> None:
    certificate.make()
    assert list(temporary.iterdir()) == []


def test_every_start_makes_another_certificate() -> None:
    assert certificate.make().fingerprint != certificate.make().fingerprint


def test_nothing_older_than_tls_1_3_is_spoken() -> None:
    assert certificate.make().context.minimum_version is ssl.TLSVersion.TLSv1_3
