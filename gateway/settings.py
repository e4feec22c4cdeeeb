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

from common.settings import CommaList, Folder, Origins, http_url, log_level, setting, whole
from gateway.access.keys import MAX_SECRET_CHARACTERS, mistyped
from gateway.domain.jobs import MARGIN_MS
from wire.envelope import GPU_ENCODER

GB = 1_000_000_000
DAY_S = 86_400
# What a form may add to the file in it, and blocks to both.
FORM_BYTES = 100_000
DATABASES = ("sqlite", "postgresql", "postgresql+psycopg", "postgresql+psycopg2")


def _database(url: str) -> None:
    """Check the URL. It may contain a password, so no message shows it."""
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
    """Check the URL. It may contain a password, so no message shows it."""
    if urlsplit(url).scheme not in {"memory", "redis", "rediss"}:
        raise ValidationError("Must be memory:// or a URL like redis://:password@host:6379/0.")
    for package in () if url.startswith("memory:") else ("limits", "redis"):
        if importlib.util.find_spec(package) is None:
            raise ValidationError(f"Needs the Python package {package}, which is not installed.")


P = TypeVar("P")


@dataclass(frozen=True)
class Settings:
    """The gateway's settings; `.env.example` is generated from them. Those of a provider are in its package."""

    #: The settings of providers, one object per class. A class that is missing has its defaults.
    parts: tuple[object, ...] = dataclasses.field(default=(), kw_only=True)
    providers: tuple[str, ...] = setting(
        CommaList(),
        None,
        "Comma-separated providers, of those below, in the order in which they are tried. Required.",
    )
    x_api_key: str | None = setting(
        fields.String(validate=[validate.Length(min=16, max=MAX_SECRET_CHARACTERS), _own_key]),
        None,
        "A first API key for clients, besides those of `keys create`.",
    )
    secret_key: tuple[str, ...] = setting(
        CommaList(),
        "",
        "Signs URLs and tokens. To rotate, a comma-separated list, newest first. Default: generated, kept in DATA_DIR.",
    )
    data_dir: Path = setting(
        Folder(), "data", "Folder for the database, the stored files and the generated SECRET_KEY."
    )
    database_url: str | None = setting(
        fields.String(validate=_database), None, "SQLAlchemy URL of the database. Default: SQLite in DATA_DIR."
    )
    storage: str = setting(
        fields.String(validate=validate.OneOf(["local", "s3"])),
        "local",
        "Where outputs and uploads are stored: `local` (in DATA_DIR) or `s3`.",
    )
    s3_bucket: str | None = setting(fields.String(), None, "Name of the bucket.")
    s3_endpoint_url: str | None = setting(
        http_url(), None, "URL of S3 for gateway, workers and clients alike. Default: Amazon's in S3_REGION."
    )
    s3_public_url: str | None = setting(
        http_url(),
        None,
        "URL under which anyone can read the bucket, such as the domain of an R2 bucket. Finished files get URLs below "
        "it, without a signature, which are valid until the file is removed.",
    )
    s3_region: str = setting(fields.String(), "us-east-1", "Region of the bucket.")
    s3_access_key_id: str | None = setting(
        fields.String(), None, "Id of a key that may put, get, delete and list objects."
    )
    s3_secret_access_key: str | None = setting(fields.String(), None, "Secret of that key.")
    s3_prefix: str = setting(fields.String(), "", "Prefix of all object keys, for example `reelay/`.")
    host: str = setting(fields.String(), "127.0.0.1", "Address to listen on.")
    port: int = setting(whole(1, 65535), 8000, "Port to listen on.")
    run_dispatcher: bool = setting(
        fields.Boolean(),
        "true",
        "Whether the gateway runs a dispatcher; if not, run `python -m gateway.dispatch`.",
    )
    threads: int = setting(
        whole(4, 256), 16, "Requests that are worked on at once. Those that wait for a job or a client do not count."
    )
    public_url: str | None = setting(
        http_url(), None, "URL of the gateway for clients. Default: http://127.0.0.1:PORT."
    )
    worker_url: str | None = setting(http_url(), None, "URL of the gateway for workers. Default: PUBLIC_URL.")
    trusted_proxy_hops: int = setting(
        whole(0, 5),
        0,
        "Number of trusted proxies in front of the gateway, which set X-Forwarded-For and -Proto. If it is too high, "
        "clients can forge their address.",
    )
    x_accel_redirect: str | None = setting(
        fields.String(validate=validate.Regexp(r"/[a-z0-9_/-]*[a-z0-9_-]\Z")),
        None,
        "Internal location of an nginx in front that serves DATA_DIR/files, for example `/stored`: nginx then sends "
        "files, after the gateway has checked their signature. Default: the gateway sends them.",
    )
    cors_origins: tuple[str, ...] = setting(
        Origins(), "", "Comma-separated origins (scheme://host[:port]) whose pages may call the API from a browser."
    )
    worker_events: bool = setting(
        fields.Boolean(),
        "true",
        "Whether workers report to the gateway. Otherwise it polls for the end of a job, which may then run twice.",
    )
    rate_limit_per_key: int = setting(
        whole(0, 10_000_000), 12_000, "Maximum requests per minute with one key; 0 means no limit, here and below."
    )
    rate_limit_per_address: int = setting(
        whole(0, 10_000_000),
        600,
        "Maximum requests per minute without key (`/ready`, documentation) from one address.",
    )
    failed_keys_per_address: int = setting(
        whole(0, 10_000_000),
        30,
        "Maximum requests per minute without a valid key from one address; further ones get 429.",
    )
    rate_limit_storage: str = setting(
        fields.String(validate=_rate_storage),
        "memory://",
        "Where requests are counted: `memory://` in each process, `redis://…` for several gateways together.",
    )
    max_jobs_per_key: int = setting(whole(0, 10_000_000), 5000, "Maximum unfinished jobs of one key.")
    max_params_bytes_per_key: int = setting(
        whole(0, 1000 * GB),
        500_000_000,
        "Maximum total size of the params of one key's unfinished jobs, which the database holds.",
    )
    max_upload_bytes_per_key: int = setting(
        whole(0, 100_000 * GB), 5 * GB, "Maximum total size of one key's uploads; each counts as at least 4096 bytes."
    )
    max_waiting_per_key: int = setting(
        whole(0, 128), 0, "Maximum requests of one key that wait for jobs at once. 0: 128, half of all that may."
    )
    daily_spending_limit_usd: Decimal = setting(
        fields.Decimal(allow_nan=False, places=6, validate=validate.Range(0, 1_000_000)),
        "50",
        "Maximum cost of one key's attempts per day (UTC), in dollars; then its new jobs are refused.",
    )
    max_body_bytes: int = setting(whole(1000, 100_000_000), 1_000_000, "Maximum size of a JSON body.")
    max_asset_bytes: int = setting(
        whole(1, 10 * GB), 100_000_000, "Maximum size of a file that a job fetches or a client uploads."
    )
    max_job_assets_bytes: int = setting(whole(1, 100 * GB), GB, "Maximum total size of the files that one job fetches.")
    max_output_bytes: int = setting(whole(1, 5 * GB), GB, "Maximum total size of the files that one job makes.")
    gpu_encoder: str = setting(
        fields.String(validate=validate.OneOf(GPU_ENCODER)),
        "prefer",
        "Where a GPU should encode and does not: `prefer` lets the CPU encode, `require` first tries up to two other "
        "machines, which do not count as tries. A rented machine gets no more jobs then.",
    )
    job_timeout_seconds: int = setting(whole(1, 86_400), 600, "Maximum time that one attempt may run.")
    queue_limit_seconds: int = setting(
        whole(1, 7 * 86_400), 3600, "Maximum time that a job waits for a worker before it fails with `queue_timeout`."
    )
    max_wait_seconds: int = setting(
        whole(0, 3600), 90, "Maximum wait for `Prefer: wait`; Cloudflare ends requests after 100 s."
    )
    default_wait_seconds: int = setting(whole(0, 3600), 0, "Wait for requests without `Prefer: wait`.")
    url_ttl_seconds: int = setting(whole(60, 7 * 86_400), 86_400, "How long the URL of a finished file is valid.")
    output_retention_seconds: int = setting(
        whole(60, 365 * DAY_S), 7 * DAY_S, "How long finished files are kept; after that their job has no `outputs`."
    )
    upload_retention_seconds: int = setting(
        whole(60, 365 * DAY_S),
        DAY_S,
        "How long an uploaded file is kept; a file that a job uses is kept at least until the job has ended.",
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
        "Comma-separated non-public origins (scheme://host:port) that webhooks may be sent to.",
    )
    min_free_disk_percent: int = setting(
        whole(0, 90), 10, "Minimum share of free disk space; below it, new jobs and uploads get 507."
    )
    log_level: str = log_level()

    def of(self, cls: type[P]) -> P:
        """Return the settings of one provider, by their class."""
        return next((part for part in self.parts if type(part) is cls), None) or cls()

    def with_parts(self, *parts: object) -> Settings:
        """Return a copy with these provider settings, which replace those of the same class."""
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
    """Return what is wrong with the combination of the gateway's settings, each of which is valid alone."""
    found = _mistakes_of_s3(settings) if settings.storage == "s3" else []
    found += ["SECRET_KEY: every key needs at least 32 characters." for key in settings.secret_key if len(key) < 32]
    if settings.default_wait_seconds > settings.max_wait_seconds:
        found.append("DEFAULT_WAIT_SECONDS: must not be more than MAX_WAIT_SECONDS.")
    # A request of a legal size must fit. Params are stored as ASCII, which may be several times as long as the body.
    if 0 < settings.max_params_bytes_per_key < 6 * settings.max_body_bytes:
        found.append("MAX_PARAMS_BYTES_PER_KEY: must be 0 or at least six times MAX_BODY_BYTES.")
    if 0 < settings.max_upload_bytes_per_key < settings.max_asset_bytes + FORM_BYTES:
        found.append(f"MAX_UPLOAD_BYTES_PER_KEY: must be 0 or at least MAX_ASSET_BYTES plus {FORM_BYTES}.")
    if settings.job_retention_seconds < max(settings.output_retention_seconds, settings.idempotency_retention_seconds):
        found.append(
            "JOB_RETENTION_SECONDS: must not be less than OUTPUT_RETENTION_SECONDS or IDEMPOTENCY_RETENTION_SECONDS."
        )
    return found


def _mistakes_of_s3(settings: Settings) -> list[str]:
    needs = ("s3_bucket", "s3_access_key_id", "s3_secret_access_key")
    found = [f"{need.upper()}: must be set with STORAGE=s3." for need in needs if not getattr(settings, need)]
    if settings.max_asset_bytes > 5 * GB:
        found.append("MAX_ASSET_BYTES: must be at most 5000000000, S3's limit for one upload, with STORAGE=s3.")
    if settings.queue_limit_seconds + settings.job_timeout_seconds + MARGIN_MS // 1000 > 7 * 86_400:
        found.append("QUEUE_LIMIT_SECONDS: plus JOB_TIMEOUT_SECONDS over 7 days, the maximum lifetime of an S3 URL.")
    return found


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Return SECRET_KEY, newest first; if it is not set, a key that is generated once and kept in DATA_DIR."""
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret_key"
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        # Written whole under another name, then linked, so that processes that start together use the same key.
        made = path.with_name(f".secret_key.{secrets.token_hex(8)}")
        with open(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError, FileNotFoundError):  # another process was first, and may have cleaned up already
            os.link(made, path)
    for left in settings.data_dir.glob(".secret_key.*"):  # ours, and those of processes that were killed
        left.unlink(missing_ok=True)
    return (path.read_text().strip(),)
