"""Settings from the environment, and the SECRET_KEY that is generated if none is set."""

from __future__ import annotations

import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.settings import SettingsError, read
from gateway import create_app
from gateway.access import keys
from gateway.configuration import check, load
from gateway.providers.runpod.settings import RunPodSettings
from gateway.settings import Settings, secrets_of
from tests.gateway.conftest import PROCESSES


def test_everything_has_a_default_but_the_providers(tmp_path: Path) -> None:
    settings = read(Settings, {})
    with pytest.raises(SettingsError, match="PROVIDERS: must be set"):
        check(settings)
    check(replace(settings, providers=("local",)))


def test_the_form_of_webhook_origins_is_checked() -> None:
    good = read(Settings, {"WEBHOOK_ALLOW_ORIGINS": "http://127.0.0.1:5678, http://n8n:5678"})
    assert good.webhook_allow_origins == ("http://127.0.0.1:5678", "http://n8n:5678")
    with pytest.raises(SettingsError, match="WEBHOOK_ALLOW_ORIGINS.*'n8n:5678/webhook'"):
        read(Settings, {"WEBHOOK_ALLOW_ORIGINS": "http://me:secret@n8n:5678/webhook"})


def test_a_mistyped_key_is_reported() -> None:
    secret = keys.make_secret()
    assert read(Settings, {"X_API_KEY": secret}).x_api_key == secret
    wrong = secret[:10] + ("a" if secret[10] != "a" else "b") + secret[11:]
    with pytest.raises(SettingsError, match="X_API_KEY.*checksum") as caught:
        read(Settings, {"X_API_KEY": wrong})
    assert wrong not in str(caught.value)


@pytest.mark.parametrize("url", ["redis", "http://me:pass-word@h/0", "memcached://me:pass-word@h", "pass-word"])
def test_a_wrong_rate_limit_storage_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="RATE_LIMIT_STORAGE") as caught:
        read(Settings, {"RATE_LIMIT_STORAGE": url})
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize(("given", "nano"), [("0", 0), ("0.000001", 1_000), ("12.5", 12_500_000_000), ("", 50 * 10**9)])
def test_a_spending_limit_is_kept_in_nano_dollars(given: str, nano: int) -> None:
    assert read(Settings, {"DAILY_SPENDING_LIMIT_USD": given}).daily_spending_limit_nano == nano
    for wrong in ("-1", "NaN", "Infinity", "much", "1000001"):
        with pytest.raises(SettingsError, match="DAILY_SPENDING_LIMIT_USD"):
            read(Settings, {"DAILY_SPENDING_LIMIT_USD": wrong})


def test_all_mistakes_are_reported_together_by_name() -> None:
    wrong = {"PORT": "99999", "THREADS": "1", "X_API_KEY": "hunter2", "PUBLIC_URL": "not a url", "LOG_LEVEL": "LOUD"}
    wrong |= {"MAX_OUTPUT_BYTES": "6000000000", "JOB_TIMEOUT_SECONDS": "soon"}
    with pytest.raises(SettingsError) as caught:
        read(Settings, wrong)
    assert all(name in str(caught.value) for name in wrong)
    assert "hunter2" not in str(caught.value)


def test_mistakes_between_settings_are_reported_together(tmp_path: Path) -> None:
    settings = Settings(
        providers=("local", "runpot"),
        secret_key=("short",),
        default_wait_seconds=91,
        max_wait_seconds=90,
        job_retention_seconds=86_399,
        max_params_bytes_per_key=5_999_999,
        max_upload_bytes_per_key=100_099_999,
    )
    with pytest.raises(SettingsError) as caught:
        create_app(settings)
    names = ("'runpot'", "SECRET_KEY", "DEFAULT_WAIT_SECONDS", "JOB_RETENTION_SECONDS")
    names += ("MAX_PARAMS_BYTES_PER_KEY", "MAX_UPLOAD_BYTES_PER_KEY")
    assert all(name in str(caught.value) for name in names)
    assert "short" not in str(caught.value).replace("shorter", "")


def test_base_urls_are_derived() -> None:
    plain = read(Settings, {"PORT": "9000"})
    assert plain.client_base == plain.worker_base == "http://127.0.0.1:9000"
    public = read(Settings, {"PUBLIC_URL": "https://v.example.com/"})
    assert public.client_base == public.worker_base == "https://v.example.com"


def test_the_database_defaults_to_the_data_folder(tmp_path: Path) -> None:
    assert read(Settings, {"DATA_DIR": str(tmp_path)}).database == f"sqlite:///{tmp_path}/reelay.db"
    assert read(Settings, {"DATABASE_URL": "sqlite:////x/y.db"}).database == "sqlite:////x/y.db"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgres", "SQLAlchemy URL"),
        ("postgresql://user:hunter2@host:port/name", "SQLAlchemy URL"),
        ("postgres://user:hunter2@host/name", "sqlite, postgresql"),
        ("mysql://user:hunter2@host/name", "sqlite, postgresql"),
        ("postgresql+nothing://user:hunter2@host/name", "sqlite, postgresql"),
        ("postgresql+psycopg2://user:hunter2@host/name", "not installed: psycopg2"),
    ],
)
def test_an_unknown_database_or_missing_driver_is_reported(
    monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # also where it is installed
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        read(Settings, {"DATABASE_URL": url})
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)


S3 = {"storage": "s3", "s3_bucket": "b", "s3_access_key_id": "k", "s3_secret_access_key": "s"}
RUNPOD = {"providers": ("runpod",), "parts": (RunPodSettings("k", "e"),)}


def test_s3_needs_its_settings_and_has_limits() -> None:
    check(Settings(providers=("local",), **S3))
    week = {"max_asset_bytes": 5_000_000_001, "queue_limit_seconds": 604_800, "max_upload_bytes_per_key": 0}
    with pytest.raises(SettingsError) as caught:
        check(Settings(providers=("local",), storage="s3", **week))
    names = ("S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "MAX_ASSET_BYTES", "QUEUE_LIMIT_SECONDS")
    assert all(f"{name}:" in str(caught.value) for name in names)
    check(Settings(providers=("local",), **week))


def test_remote_workers_need_a_public_url_unless_they_never_call_the_gateway() -> None:
    check(Settings(**RUNPOD, **S3, worker_events=False))
    for changes in ({}, {**S3}, {"worker_events": False}):
        with pytest.raises(SettingsError, match="PUBLIC_URL or WORKER_URL"):
            check(Settings(**RUNPOD, **changes))
        check(Settings(**RUNPOD, **changes, public_url="https://api.example.com"))


def test_a_created_data_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDERS", "local")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "new"))
    assert stat.S_IMODE(load().data_dir.stat().st_mode) == 0o700


def test_a_secret_key_is_generated_privately_unless_it_is_set(tmp_path: Path) -> None:
    given = Settings(secret_key=("a" * 32, "b" * 32), data_dir=tmp_path)
    assert secrets_of(given) == ("a" * 32, "b" * 32)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".secret_key.0123456789abcdef").write_text("half a k")  # left by a process that was killed
    (made,) = secrets_of(Settings(data_dir=tmp_path))
    path = tmp_path / "secret_key"
    assert len(made) == 64
    assert secrets_of(Settings(data_dir=tmp_path)) == (made,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def make_secret(folder: str) -> tuple[str, ...]:
    return secrets_of(Settings(data_dir=Path(folder)))


def test_ten_processes_agree_on_one_secret_key(tmp_path: Path) -> None:
    with PROCESSES.Pool(10) as pool:
        made = pool.map(make_secret, [str(tmp_path / "data")] * 40, chunksize=1)
        pool.close()
        pool.join()
    assert len(set(made)) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret_key"]
