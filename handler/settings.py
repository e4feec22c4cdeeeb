"""The worker's settings, all from the environment. Shared by both faces; those of the HTTP face say so.

The supervisor reads its own from the environment itself, so that no mistake in any of them ends it (`supervisor.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from marshmallow import fields, validate

from common.settings import Folder, Networks, Origins, setting


@dataclass(frozen=True)
class Settings:
    """See `.env.example`, which is made from these lines."""

    log_level: str = setting(
        fields.String(validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"])),
        "INFO",
        "Least level that is logged.",
    )
    work_dir: Path = setting(
        Folder(),
        "/tmp/reelay-work",  # noqa: S108  (every attempt gets a private directory in it)
        "Folder for the private directories of attempts.",
    )
    output_dir: Path = setting(Folder(), "output", "Folder for outputs of jobs that have no delivery (tests by hand).")
    runpod_gpu_name: str | None = setting(fields.String(), None, "Set by RunPod: what the worker's GPU is called.")
    fetch_allow_origins: tuple[str, ...] = setting(
        Origins(),
        "",
        "Comma list of non-public origins (scheme://host:port) that assets may come from. Keep it short.",
    )
    worker_host: str = setting(fields.String(), "127.0.0.1", "HTTP worker: address to listen on.")
    worker_port: int = setting(
        fields.Integer(validate=validate.Range(1, 65535)), 3334, "HTTP worker: port to listen on."
    )
    worker_concurrency: int = setting(
        fields.Integer(validate=validate.Range(1, 16)),
        1,
        "HTTP worker: attempts at once; more are answered `worker_busy`.",
    )
    session_token: str = setting(
        fields.String(validate=validate.Length(min=32)), None, "HTTP worker: what callers must send as X-Session-Token."
    )
    worker_api_key: str = setting(
        fields.String(validate=validate.Length(min=32)), None, "HTTP worker: what callers must send as X-API-Key."
    )
    allowed_ips: tuple[str, ...] = setting(
        Networks(), "", "HTTP worker: comma list of addresses or networks that may call. Empty: nobody."
    )
    worker_tls: bool = setting(
        fields.Boolean(),
        "false",
        "HTTP worker: serve HTTPS with a certificate made at start, which the gateway asks proof for. Rented ones do.",
    )
    worker_silence_seconds: int = setting(
        fields.Integer(validate=validate.Range(min=1)),
        420,
        "Rented worker: without a call from the gateway for so long the instance is destroyed.",
    )
    worker_lifetime_seconds: int = setting(
        fields.Integer(validate=validate.Range(min=1)),
        86_400,
        "Rented worker: so long after its first start the instance is destroyed, whatever it does.",
    )
    worker_state_dir: Path = setting(
        Folder(),
        "/tmp/reelay-state",  # noqa: S108  (made with mode 0700)
        "Rented worker: folder that outlives a restart of the container, for the deadline.",
    )
    self_destroy_base: str = setting(
        fields.Url(require_tld=False, schemes={"http", "https"}),
        "https://console.vast.ai",
        "Rented worker: base of the API that destroys the instance, with the CONTAINER_API_KEY that Vast.ai sets.",
    )
    self_destroy_retry_seconds: int = setting(
        fields.Integer(validate=validate.Range(min=1)),
        5,
        "Rented worker: pause between the first calls to that API; it grows to twelve times this.",
    )
