"""The gateway's settings, read once from the environment or `.env`."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import sqlalchemy as sa
from marshmallow import ValidationError, fields, validate

from common.settings import CommaList, Folder, Origins, http_url, setting, whole
from gateway.access.keys import MAX_SECRET_CHARACTERS, mistyped
from gateway.domain.jobs import MARGIN_MS

GB = 1_000_000_000
DAY_S = 86_400
DATABASES = ("sqlite", "postgresql", "postgresql+psycopg", "postgresql+psycopg2")


def _database(url: str) -> None:
    """The URL may hold a password: no message shows it."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ValidationError("Must be an SQLAlchemy URL like postgresql+psycopg://user:password@host/name.") from error
    if parsed.drivername not in DATABASES:
        raise ValidationError(f"Must begin with one of {', '.join(DATABASES)}.")
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError as error:
        raise ValidationError(f"Needs a Python package that is not installed: {error.name}.") from error


def _own_key(secret: str) -> None:
    if mistyped(secret):
        raise ValidationError("Looks like a key of `keys create`, but is mistyped: its checksum is wrong.")


def _rate_storage(url: str) -> None:
    """The URL may hold a password: no message shows it."""
    if urlsplit(url).scheme not in {"memory", "redis", "rediss"}:
        raise ValidationError("Must be memory:// or a URL like redis://:password@host:6379/0.")
    for package in () if url.startswith("memory:") else ("limits", "redis"):
        if importlib.util.find_spec(package) is None:
            raise ValidationError(f"Needs the Python package {package}, which is not installed.")


P = TypeVar("P")


@dataclass(frozen=True)
class Settings:
    """The gateway's own; `.env.example` is made from these lines. Those of a provider come with its package."""

    #: The settings of providers, one object of each class. A class that is missing has its defaults.
    parts: tuple[object, ...] = dataclasses.field(default=(), kw_only=True)
    providers: tuple[str, ...] = setting(
        CommaList(), None, "Comma list of the providers below, in the order of trial. Must be set."
    )
    x_api_key: str | None = setting(
        fields.String(validate=[validate.Length(min=16, max=MAX_SECRET_CHARACTERS), _own_key]),
        None,
        "A first API key for clients, besides those of `keys create`.",
    )
    secret_key: tuple[str, ...] = setting(
        CommaList(),
        "",
        "Signs URLs and tokens; a comma list rotates, newest first. Made and kept in DATA_DIR when not set.",
    )
    data_dir: Path = setting(Folder(), "data", "Folder for the database, the stored files and the made SECRET_KEY.")
    database_url: str | None = setting(
        fields.String(validate=_database), None, "SQLAlchemy URL of the database. Default: SQLite in DATA_DIR."
    )
    storage: str = setting(
        fields.String(validate=validate.OneOf(["local", "s3"])),
        "local",
        "Where outputs and uploads lie: `local` (in DATA_DIR) or `s3`.",
    )
    s3_bucket: str | None = setting(fields.String(), None, "The bucket.")
    s3_endpoint_url: str | None = setting(
        http_url(), None, "Where S3 is, as gateway, workers and clients all reach it. Default: Amazon's of S3_REGION."
    )
    s3_region: str = setting(fields.String(), "us-east-1", "The bucket's region.")
    s3_access_key_id: str | None = setting(fields.String(), None, "Of a key that may put, get, delete and list there.")
    s3_secret_access_key: str | None = setting(fields.String(), None, "The secret of that key.")
    s3_prefix: str = setting(fields.String(), "", "Put before every key in the bucket, for example `reelay/`.")
    host: str = setting(fields.String(), "127.0.0.1", "Address to listen on.")
    port: int = setting(whole(1, 65535), 8000, "Port to listen on.")
    run_dispatcher: bool = setting(
        fields.Boolean(),
        "true",
        "Whether the gateway moves jobs itself; if not, run `python -m gateway.dispatch`.",
    )
    threads: int = setting(
        whole(4, 256), 16, "Threads that answer requests: at most half of them wait, a quarter transfer files."
    )
    public_url: str | None = setting(http_url(), None, "How clients reach the gateway. Default: http://127.0.0.1:PORT.")
    worker_url: str | None = setting(http_url(), None, "How workers reach the gateway. Default: PUBLIC_URL.")
    trusted_proxy_hops: int = setting(
        whole(0, 5),
        0,
        "How many proxies stand before the gateway, whose X-Forwarded-For and -Proto are believed. One too many, and "
        "clients forge their address.",
    )
    cors_origins: tuple[str, ...] = setting(
        Origins(), "", "Comma list of origins (scheme://host[:port]) whose pages may call the API from a browser."
    )
    worker_events: bool = setting(
        fields.Boolean(),
        "true",
        "Whether workers report to the gateway; without it ends are found by polling, and work may run twice.",
    )
    rate_limit_per_key: int = setting(
        whole(0, 10_000_000), 12_000, "Requests that a key may make in a minute; 0 is no limit, here and below."
    )
    rate_limit_per_address: int = setting(
        whole(0, 10_000_000), 600, "Requests without a key (`/ready`, documentation) in a minute from one address."
    )
    failed_keys_per_address: int = setting(
        whole(0, 10_000_000),
        30,
        "Requests with no valid key in a minute from one address; after that it gets 429 for the rest of the minute.",
    )
    rate_limit_storage: str = setting(
        fields.String(validate=_rate_storage),
        "memory://",
        "Where requests are counted: `memory://`, each process for itself, or `redis://…`, shared by several gateways.",
    )
    max_jobs_per_key: int = setting(whole(0, 10_000_000), 5000, "Unfinished jobs that a key may have.")
    max_waiting_per_key: int = setting(
        whole(0, 128), 0, "Requests of one key that may wait for jobs at once. 0: the whole half of THREADS."
    )
    daily_spending_limit_usd: Decimal = setting(
        fields.Decimal(allow_nan=False, places=6, validate=validate.Range(0, 1_000_000)),
        "50",
        "What the attempts of one key may cost in a day (UTC) before its new jobs are refused, in dollars.",
    )
    max_body_bytes: int = setting(whole(1000, 100_000_000), 1_000_000, "Largest JSON body of a request.")
    max_asset_bytes: int = setting(
        whole(1, 10 * GB), 100_000_000, "Largest file that a job may name or that is uploaded."
    )
    max_job_assets_bytes: int = setting(
        whole(1, 100 * GB), GB, "How many bytes all files that one job fetches may have together."
    )
    max_output_bytes: int = setting(
        whole(1, 5 * GB), GB, "How many bytes all files that one job makes may have together."
    )
    job_timeout_seconds: int = setting(whole(1, 86_400), 600, "Longest time that one attempt may run.")
    queue_limit_seconds: int = setting(
        whole(1, 7 * 86_400), 3600, "Longest time that a job waits for a worker before it fails with `queue_timeout`."
    )
    max_wait_seconds: int = setting(whole(0, 3600), 90, "Longest wait that `Prefer: wait` gets; proxies cut at 100 s.")
    default_wait_seconds: int = setting(whole(0, 3600), 0, "Wait of requests that do not ask for one.")
    url_ttl_seconds: int = setting(whole(60, 7 * 86_400), 86_400, "How long the URL of a finished file is valid.")
    output_retention_seconds: int = setting(
        whole(60, 365 * DAY_S), 7 * DAY_S, "How long finished files are kept; after that their job has no `outputs`."
    )
    upload_retention_seconds: int = setting(
        whole(60, 365 * DAY_S),
        DAY_S,
        "How long an uploaded file is kept; one that an unfinished job names stays until that job has ended.",
    )
    idempotency_retention_seconds: int = setting(
        whole(60, 365 * DAY_S), DAY_S, "How long an `Idempotency-Key` is remembered."
    )
    job_retention_seconds: int = setting(
        whole(60, 3650 * DAY_S), 30 * DAY_S, "How long a job can be read after it has ended."
    )
    webhook_allow_origins: tuple[str, ...] = setting(
        Origins(),
        "",
        "Comma list of non-public origins (scheme://host:port) that webhooks may go to. Keep it short.",
    )
    min_free_disk_percent: int = setting(
        whole(0, 90), 10, "Below this share of free disk new jobs and uploads are refused with 507."
    )
    log_level: str = setting(
        fields.String(validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"])),
        "INFO",
        "Minimum level that is logged.",
    )

    def of(self, cls: type[P]) -> P:
        """The settings of one provider, by their class."""
        return next((part for part in self.parts if type(part) is cls), None) or cls()

    def having(self, *parts: object) -> Settings:
        """A copy with these settings of providers in place of those of the same class."""
        kept = [part for part in self.parts if type(part) not in set(map(type, parts))]
        return dataclasses.replace(self, parts=(*kept, *parts))

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'reelay.db'}"

    @property
    def daily_spending_limit_nano(self) -> int:
        return int(Decimal(self.daily_spending_limit_usd) * 1_000_000_000)

    @property
    def files_dir(self) -> Path:
        return self.data_dir / "files"

    @property
    def client_base(self) -> str:
        return (self.public_url or f"http://127.0.0.1:{self.port}").rstrip("/")

    @property
    def worker_base(self) -> str:
        return (self.worker_url or self.client_base).rstrip("/")


def mistakes(settings: Settings) -> list[str]:
    """What is wrong with the gateway's own settings together, each of which is valid alone."""
    found = _mistakes_of_s3(settings) if settings.storage == "s3" else []
    found += ["SECRET_KEY: every key needs at least 32 characters." for key in settings.secret_key if len(key) < 32]
    if settings.default_wait_seconds > settings.max_wait_seconds:
        found.append("DEFAULT_WAIT_SECONDS: must not be more than MAX_WAIT_SECONDS.")
    if settings.job_retention_seconds < max(settings.output_retention_seconds, settings.idempotency_retention_seconds):
        found.append(
            "JOB_RETENTION_SECONDS: must not be less than OUTPUT_RETENTION_SECONDS or IDEMPOTENCY_RETENTION_SECONDS."
        )
    return found


def _mistakes_of_s3(settings: Settings) -> list[str]:
    needs = ("s3_bucket", "s3_access_key_id", "s3_secret_access_key")
    found = [f"{need.upper()}: must be set with STORAGE=s3." for need in needs if not getattr(settings, need)]
    if settings.max_asset_bytes > 5 * GB:
        found.append("MAX_ASSET_BYTES: at most 5000000000 with STORAGE=s3, which takes no more in one piece.")
    if settings.queue_limit_seconds + settings.job_timeout_seconds + MARGIN_MS // 1000 > 7 * 86_400:
        found.append("QUEUE_LIMIT_SECONDS: with JOB_TIMEOUT_SECONDS over 7 days, the longest life of a URL of S3.")
    return found


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """SECRET_KEY, newest first; made once and kept in the data folder when it is not set."""
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret_key"
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        # Written whole under another name and linked: two processes that start at once agree on one key.
        made = path.with_name(f".secret_key.{secrets.token_hex(8)}")
        with open(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError, FileNotFoundError):  # another one was first, and may have tidied up already
            os.link(made, path)
    for left in settings.data_dir.glob(".secret_key.*"):  # ours, and those of others who died before they came here
        left.unlink(missing_ok=True)
    return (path.read_text().strip(),)
