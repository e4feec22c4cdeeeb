"""The worker's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.settings import SettingsError, read
from handler.settings import Settings


def test_nothing_needs_to_be_set_to_run_by_hand() -> None:
    settings = read(Settings, {})
    assert settings.output_dir == Path("output").absolute()
    assert settings.fetch_allow_origins == settings.allowed_ips == ()
    assert settings.session_token is settings.worker_api_key is None


@pytest.mark.parametrize(
    "entry", ["http://[::1]:8000", "https://gateway", "http://host/", "HTTP://Host_1.example.com:80"]
)
def test_an_origin_is_scheme_host_and_port(entry: str) -> None:
    assert read(Settings, {"FETCH_ALLOW_ORIGINS": entry}).fetch_allow_origins == (entry,)


@pytest.mark.parametrize(
    "entry",
    ["gateway:8000", "ftp://gateway", "http://", "http://host/path", "http://host?x", "http://*", "http://host:port"],
)
def test_an_invalid_origin_is_named(entry: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(Settings, {"FETCH_ALLOW_ORIGINS": f"http://127.0.0.1:8000,{entry},http://me:hunter2@host"})
    assert "FETCH_ALLOW_ORIGINS" in str(caught.value)
    assert f"{entry!r}, 'host'" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_limit_of_memory_that_no_job_can_keep_is_refused() -> None:
    assert read(Settings, {}).worker_max_memory_bytes == 3_000_000_000
    for wrong in ("1000000", "3 GB", "-1"):
        with pytest.raises(SettingsError, match="WORKER_MAX_MEMORY_BYTES"):
            read(Settings, {"WORKER_MAX_MEMORY_BYTES": wrong})


def test_all_mistakes_are_reported_together_without_the_secrets() -> None:
    wrong = {"WORKER_PORT": "0", "WORKER_CONCURRENCY": "99", "SESSION_TOKEN": "tooshort", "LOG_LEVEL": "loud"}
    with pytest.raises(SettingsError) as caught:
        read(Settings, wrong)
    assert all(name in str(caught.value) for name in wrong)
    assert "tooshort" not in str(caught.value)
