"""The gateway's settings, read once from the environment or `.env`."""

from __future__ import annotations

import importlib.util
import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa
from marshmallow import ValidationError, fields, validate

from common.settings import CommaList, Folder, Networks, Origins, SettingsError, read, setting
from gateway.access.keys import MAX_SECRET_CHARACTERS, mistyped
from gateway.domain.jobs import MARGIN_MS
from gateway.providers.runpod.gpus import Prices

GB = 1_000_000_000
DAY_S = 86_400
# Every provider, with the settings that it cannot do without.
PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "local": (),
    "runpod": ("runpod_api_key", "runpod_endpoint_id", "worker_url"),
    "vast": ("vast_api_key", "vast_worker_image", "deployment", "worker_url"),
}
DATABASES = ("sqlite", "postgresql", "postgresql+psycopg", "postgresql+psycopg2")


def _whole(least: int, most: int) -> fields.Integer:
    return fields.Integer(validate=validate.Range(least, most))


def _url() -> fields.Url:
    return fields.Url(require_tld=False, schemes={"http", "https"})


def _job_base(url: str) -> None:
    if urlsplit(url).hostname in {"api.runpod.io", "rest.runpod.io"}:
        raise ValidationError("Is RunPod's management API; jobs go to https://api.runpod.ai/v2.")


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


def _pinned(image: str) -> None:
    """Hosts keep images: what a tag like `latest` means there is what it meant some day."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in {"", "latest"}:
        raise ValidationError("Must name a version or a digest, like acme/reelay-worker:0.1.0.")


@dataclass(frozen=True)
class Settings:
    """See `.env.example`, which is made from these lines."""

    providers: tuple[str, ...] = setting(
        CommaList(), None, f"Providers in the order of trial, comma list. Must be set. Known: {', '.join(PROVIDERS)}."
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
        _url(), None, "Where S3 is, as gateway, workers and clients all reach it. Default: Amazon's of S3_REGION."
    )
    s3_region: str = setting(fields.String(), "us-east-1", "The bucket's region.")
    s3_access_key_id: str | None = setting(fields.String(), None, "Of a key that may put, get, delete and list there.")
    s3_secret_access_key: str | None = setting(fields.String(), None, "The secret of that key.")
    s3_prefix: str = setting(fields.String(), "", "Put before every key in the bucket, for example `reelay/`.")
    host: str = setting(fields.String(), "127.0.0.1", "Address to listen on.")
    port: int = setting(_whole(1, 65535), 8000, "Port to listen on.")
    run_dispatcher: bool = setting(
        fields.Boolean(),
        "true",
        "Whether the gateway moves jobs itself; if not, run `python -m gateway.dispatch`.",
    )
    threads: int = setting(
        _whole(4, 256), 16, "Threads that answer requests: at most half of them wait, a quarter transfer files."
    )
    public_url: str | None = setting(_url(), None, "How clients reach the gateway. Default: http://127.0.0.1:PORT.")
    worker_url: str | None = setting(_url(), None, "How workers reach the gateway. Default: PUBLIC_URL.")
    trusted_proxy_hops: int = setting(
        _whole(0, 5),
        0,
        "How many proxies stand before the gateway, whose X-Forwarded-For and -Proto are believed. One too many, and "
        "clients forge their address.",
    )
    cors_origins: tuple[str, ...] = setting(
        Origins(), "", "Comma list of origins (scheme://host[:port]) whose pages may call the API from a browser."
    )
    local_worker_url: str = setting(
        _url(), "http://127.0.0.1:3334", "Where the worker of the provider `local` listens."
    )
    worker_events: bool = setting(
        fields.Boolean(),
        "true",
        "Whether workers report to the gateway; without it ends are found by polling, and work may run twice.",
    )
    runpod_api_key: str | None = setting(fields.String(), None, "Key of the RunPod account.")
    runpod_endpoint_id: str | None = setting(
        fields.String(validate=validate.Regexp(r"[A-Za-z0-9_-]+\Z")), None, "The RunPod Serverless endpoint that works."
    )
    runpod_api_base: str = setting(
        fields.Url(require_tld=False, schemes={"http", "https"}, validate=_job_base),
        "https://api.runpod.ai/v2",
        "Base of RunPod's job API.",
    )
    runpod_management_base: str = setting(
        _url(), "https://api.runpod.io/v2", "Base of RunPod's management API, for `flask --app gateway runpod`."
    )
    runpod_queue_limit_s: int = setting(
        _whole(1, 86_400), 300, "Longest time that a job waits in RunPod's queue before the next provider is asked."
    )
    runpod_gpu_prices: Mapping[str, int] | None = setting(
        Prices(),
        None,
        "RunPod's prices in dollars per second where they changed: ADA_24=0.00031, …",
    )
    runpod_idle_timeout_s: int = setting(
        _whole(1, 3600), 300, "Idle timeout of the endpoint, in which its worker is paid for after its last job."
    )
    rate_limit_per_key: int = setting(
        _whole(0, 10_000_000), 12_000, "Requests that a key may make in a minute; 0 is no limit, here and below."
    )
    rate_limit_per_address: int = setting(
        _whole(0, 10_000_000), 600, "Requests without a key (`/ready`, documentation) in a minute from one address."
    )
    failed_keys_per_address: int = setting(
        _whole(0, 10_000_000),
        30,
        "Requests with no valid key in a minute from one address; after that it gets 429 for the rest of the minute.",
    )
    rate_limit_storage: str = setting(
        fields.String(validate=_rate_storage),
        "memory://",
        "Where requests are counted: `memory://`, each process for itself, or `redis://…`, shared by several gateways.",
    )
    max_jobs_per_key: int = setting(_whole(0, 10_000_000), 5000, "Unfinished jobs that a key may have.")
    max_waiting_per_key: int = setting(
        _whole(0, 128), 0, "Requests of one key that may wait for jobs at once. 0: the whole half of THREADS."
    )
    daily_spending_limit_usd: Decimal = setting(
        fields.Decimal(allow_nan=False, places=6, validate=validate.Range(0, 1_000_000)),
        "50",
        "What the attempts of one key may cost in a day (UTC) before its new jobs are refused, in dollars.",
    )
    max_body_bytes: int = setting(_whole(1000, 100_000_000), 1_000_000, "Largest JSON body of a request.")
    vast_api_key: str | None = setting(fields.String(), None, "Key of the Vast.ai account.")
    vast_worker_image: str | None = setting(
        fields.String(validate=_pinned),
        None,
        "The worker's image, with its version: rented machines run it.",
    )
    deployment: str | None = setting(
        fields.String(validate=validate.Regexp(r"[a-z0-9-]{1,32}\Z")),
        None,
        "Name of this installation in the labels of rented machines. Machines with this name that the database does "
        "not know are destroyed: no two databases on one Vast.ai account may share it.",
    )
    vast_api_base: str = setting(_url(), "https://console.vast.ai", "Base of Vast.ai's API.")
    vast_offer_order: str = setting(
        fields.String(validate=validate.OneOf(["cost", "speed"])),
        "cost",
        "Which offer is taken first: `cost` the cheapest, `speed` the newest generation of encoders.",
    )
    vast_min_vram_gb: int = setting(_whole(1, 96), 8, "Least memory of a rented GPU, in GB.")
    vast_max_price: float = setting(
        fields.Float(validate=validate.Range(0.01, 10)), 1.0, "Highest price of a rented machine, in dollars an hour."
    )
    vast_max_instances: int = setting(
        _whole(0, 50), 2, "How many machines are rented at once at most. 0: none gets another job, and all of them go."
    )
    vast_allowed_ips: tuple[str, ...] = setting(
        Networks(),
        "",
        "Comma list of the addresses or networks from which rented machines may be called: those of all gateways. "
        "Default: what https://api.ipify.org sees of this one.",
    )
    vast_concurrency: int = setting(_whole(1, 3), 1, "How many jobs a rented machine has at once.")
    vast_queue_limit_s: int = setting(
        _whole(10, 86_400),
        300,
        "Longest time a job waits for a rented machine, unless one boots for it, before the next provider is asked.",
    )
    vast_idle_timeout: int = setting(
        _whole(10, 3600), 300, "Seconds without a job after which a rented machine is given back."
    )
    vast_max_lifetime: int = setting(
        _whole(900, 7 * 86_400), 6 * 3600, "Seconds after which a rented machine is given back whatever it does."
    )
    vast_daily_budget: float = setting(
        fields.Float(validate=validate.Range(0.01, 10_000)),
        10.0,
        "Dollars that rented machines may cost on one day (UTC); then nothing more is rented, and idle machines go.",
    )
    vast_min_credit: float = setting(
        fields.Float(validate=validate.Range(0, 10_000)), 1.0, "Dollars on the account below which nothing is rented."
    )
    max_asset_bytes: int = setting(
        _whole(1, 10 * GB), 100_000_000, "Largest file that a job may name or that is uploaded."
    )
    max_output_bytes: int = setting(_whole(1, 5 * GB), GB, "Largest video that a job may make.")
    job_timeout_seconds: int = setting(_whole(1, 86_400), 600, "Longest time that one attempt may run.")
    queue_limit_seconds: int = setting(
        _whole(1, 7 * 86_400), 3600, "Longest time that a job waits for a worker before it fails with `queue_timeout`."
    )
    max_wait_seconds: int = setting(_whole(0, 3600), 90, "Longest wait that `Prefer: wait` gets; proxies cut at 100 s.")
    default_wait_seconds: int = setting(_whole(0, 3600), 0, "Wait of requests that do not ask for one.")
    url_ttl_seconds: int = setting(_whole(60, 7 * 86_400), 86_400, "How long the URL of a finished video is valid.")
    output_retention_seconds: int = setting(
        _whole(60, 365 * DAY_S), 7 * DAY_S, "How long a finished video is kept; after that its job has no `video_url`."
    )
    upload_retention_seconds: int = setting(
        _whole(60, 365 * DAY_S),
        DAY_S,
        "How long an uploaded file is kept; one that an unfinished job names stays until that job has ended.",
    )
    idempotency_retention_seconds: int = setting(
        _whole(60, 365 * DAY_S), DAY_S, "How long an `Idempotency-Key` is remembered."
    )
    job_retention_seconds: int = setting(
        _whole(60, 3650 * DAY_S), 30 * DAY_S, "How long a job can be read after it has ended."
    )
    webhook_allow_origins: tuple[str, ...] = setting(
        Origins(),
        "",
        "Comma list of non-public origins (scheme://host:port) that webhooks may go to. Keep it short.",
    )
    min_free_disk_percent: int = setting(
        _whole(0, 90), 10, "Below this share of free disk new jobs and uploads are refused with 507."
    )
    log_level: str = setting(
        fields.String(validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"])),
        "INFO",
        "Least level that is logged.",
    )

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


def load() -> Settings:
    """The environment's settings, checked, with a DATA_DIR that can be used. Raises SettingsError."""
    settings = read(Settings)
    check(settings)
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        secrets_of(settings)
        settings.files_dir.mkdir(parents=True, exist_ok=True)
        for folder in (settings.data_dir, settings.files_dir):
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise SettingsError(f"DATA_DIR: {settings.data_dir} cannot be used: {error.strerror}.") from error
    return settings


def check(settings: Settings) -> None:
    """What the fields alone cannot tell. Raises SettingsError with all mistakes."""
    mistakes = []
    if not settings.providers:
        mistakes.append("PROVIDERS: must be set, for example PROVIDERS=local.")
    for name in settings.providers or ():
        if name not in PROVIDERS:
            mistakes.append(f"PROVIDERS: unknown provider {name!r}; known: {', '.join(sorted(PROVIDERS))}.")
        mistakes += [_missing(name, need) for need in PROVIDERS.get(name, ()) if not _has(settings, need)]
    if settings.storage == "s3":
        mistakes += _mistakes_of_s3(settings)
    if "vast" in (settings.providers or ()):
        mistakes += _mistakes_of_vast(settings)
    mistakes += ["SECRET_KEY: every key needs at least 32 characters." for key in settings.secret_key if len(key) < 32]
    if settings.default_wait_seconds > settings.max_wait_seconds:
        mistakes.append("DEFAULT_WAIT_SECONDS: must not be more than MAX_WAIT_SECONDS.")
    if settings.job_retention_seconds < max(settings.output_retention_seconds, settings.idempotency_retention_seconds):
        mistakes.append(
            "JOB_RETENTION_SECONDS: must not be less than OUTPUT_RETENTION_SECONDS or IDEMPOTENCY_RETENTION_SECONDS."
        )
    if mistakes:
        raise SettingsError(" ".join(mistakes))


def _mistakes_of_vast(settings: Settings) -> list[str]:
    mistakes = []
    if len(",".join(settings.vast_allowed_ips)) > 256:
        mistakes.append("VAST_ALLOWED_IPS: at most 256 characters, which Vast.ai takes.")
    # a job that has just begun must be able to end
    shortest = 2 * (settings.job_timeout_seconds + MARGIN_MS // 1000)
    if settings.vast_max_lifetime < shortest:
        mistakes.append(f"VAST_MAX_LIFETIME: must be {shortest} at least with this JOB_TIMEOUT_SECONDS.")
    return mistakes


def _mistakes_of_s3(settings: Settings) -> list[str]:
    needs = ("s3_bucket", "s3_access_key_id", "s3_secret_access_key")
    mistakes = [f"{need.upper()}: must be set with STORAGE=s3." for need in needs if not getattr(settings, need)]
    if settings.max_asset_bytes > 5 * GB:
        mistakes.append("MAX_ASSET_BYTES: at most 5000000000 with STORAGE=s3, which takes no more in one piece.")
    if settings.queue_limit_seconds + settings.job_timeout_seconds + MARGIN_MS // 1000 > 7 * 86_400:
        mistakes.append("QUEUE_LIMIT_SECONDS: with JOB_TIMEOUT_SECONDS over 7 days, the longest life of a URL of S3.")
    return mistakes


def _has(settings: Settings, need: str) -> bool:
    if need == "worker_url":
        # with S3 and without events no worker ever calls the gateway
        alone = settings.storage == "s3" and not settings.worker_events
        return bool(settings.worker_url or settings.public_url or alone)
    return bool(getattr(settings, need))


def _missing(provider: str, need: str) -> str:
    if need == "worker_url":
        return f"PUBLIC_URL or WORKER_URL: must be set for the provider {provider}, whose workers are elsewhere."
    return f"{need.upper()}: must be set for the provider {provider}."


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
