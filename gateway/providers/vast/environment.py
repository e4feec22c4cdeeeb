"""What a rented worker is told in its environment."""

from __future__ import annotations

from gateway.providers.worker_client import worker_secrets
from gateway.settings import Settings
from gateway.signing import Signer


def environment(settings: Settings, signer: Signer, rental: str) -> dict[str, str]:
    return {
        "-p 3334:3334": "1",
        "WORKER_MODE": "http",
        "WORKER_HOST": "0.0.0.0",
        "WORKER_PORT": "3334",
        "WORKER_TLS": "true",
        "ALLOWED_IPS": "127.0.0.1",
        "WORKER_CONCURRENCY": str(settings.vast_concurrency),
        "WORKER_LIFETIME_SECONDS": str(settings.vast_max_lifetime),
        "WORKER_SILENCE_SECONDS": "420",
        **worker_secrets(signer, rental),
    }
