"""The worker's settings, all from the environment. A prefix marks those that apply to the HTTP worker only.

The supervisor reads its settings itself, so that no mistake in any setting stops it (`supervisor.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from marshmallow import fields, validate

from common.settings import Folder, Networks, Origins, http_url, log_level, setting, whole


@dataclass(frozen=True)
class Settings:
    """All settings of the worker; `.env.example` is generated from them."""

    log_level: str = log_level()
    work_dir: Path = setting(
        Folder(),
        "/tmp/reelay-work",  # noqa: S108  (every attempt has a private directory in it)
        "Folder for the private directories of attempts.",
    )
    output_dir: Path = setting(Folder(), "output", "Folder for outputs of jobs without a delivery (runs by hand).")
    nvenc_hide_foreign_gpus: bool = setting(
        fields.Boolean(),
        "false",
        "Hide the host's other GPUs from FFmpeg, a workaround for NVIDIA's drivers 570 to 609. In the image only.",
    )
    runpod_gpu_name: str | None = setting(fields.String(), None, "Set by RunPod: the name of the worker's GPU.")
    gpu_decode: bool = setting(
        fields.Boolean(),
        "false",
        "Have the GPU decode the videos that `caption` draws on; one that it cannot decode is decoded by the CPU.",
    )
    fetch_allow_origins: tuple[str, ...] = setting(
        Origins(),
        "",
        "Comma-separated non-public origins (scheme://host:port) that assets may be fetched from.",
    )
    worker_max_memory_bytes: int = setting(
        fields.Integer(validate=validate.Range(min=300_000_000)),
        3_000_000_000,
        "Maximum memory of a job's commands and the worker together; half of it for videos of up to 1920x1080. A job "
        "that takes more is ended with `job_too_large`.",
    )
    worker_host: str = setting(fields.String(), "127.0.0.1", "HTTP worker: address to listen on.")
    worker_port: int = setting(whole(1, 65535), 3334, "HTTP worker: port to listen on.")
    worker_concurrency: int = setting(whole(1, 16), 1, "HTTP worker: concurrent attempts; more get `worker_busy`.")
    session_token: str = setting(
        fields.String(validate=validate.Length(min=32)),
        None,
        "HTTP worker: the X-Session-Token that callers must send.",
    )
    worker_api_key: str = setting(
        fields.String(validate=validate.Length(min=32)), None, "HTTP worker: the X-API-Key that callers must send."
    )
    allowed_ips: tuple[str, ...] = setting(
        Networks(), "", "HTTP worker: comma-separated list of addresses or networks that may call. Empty: none."
    )
    worker_tls: bool = setting(
        fields.Boolean(),
        "false",
        "HTTP worker: serve HTTPS with a certificate of its own, made at start. For rented machines.",
    )
    worker_silence_seconds: int = setting(
        fields.Integer(validate=validate.Range(min=1)),
        420,
        "Rented worker: seconds without a call from the gateway after which its machine is destroyed.",
    )
    worker_lifetime_seconds: int = setting(
        fields.Integer(validate=validate.Range(min=1)),
        86_400,
        "Rented worker: seconds after its first start at which its machine is destroyed, even during a job.",
    )
    worker_state_dir: Path = setting(
        Folder(),
        "/tmp/reelay-state",  # noqa: S108  (made with mode 0700)
        "Rented worker: folder for the deadline, kept when the container restarts.",
    )
    self_destroy_base: str = setting(
        http_url(),
        "https://console.vast.ai",
        "Rented worker: base URL of the API that destroys the machine, with the CONTAINER_API_KEY that Vast.ai sets.",
    )
    self_destroy_retry_seconds: int = setting(
        fields.Integer(validate=validate.Range(min=1)),
        5,
        "Rented worker: first pause between calls to that API; later ones grow up to twelve times this.",
    )
