"""What a rented worker is told in its environment, which the host of the machine can read."""

from __future__ import annotations

from collections.abc import Collection

from gateway.providers.worker_client import worker_secrets
from gateway.settings import Settings
from gateway.signing import Signer

PORT = 3334
# Without a call for so long the machine destroys itself; the pool calls every few seconds.
SILENCE_S = 420
# Longer values are cut or refused by Vast.ai.
MOST_CHARACTERS = 256


def environment(settings: Settings, signer: Signer, rental: str, allowed: Collection[str]) -> dict[str, str]:
    """For the creation of the rental: secrets of its own, and no other. `allowed`: the addresses that it lets in."""
    told = {
        f"-p {PORT}:{PORT}": "1",
        "WORKER_MODE": "http",
        "WORKER_HOST": "0.0.0.0",  # noqa: S104  (of the container)
        "WORKER_PORT": str(PORT),
        "WORKER_TLS": "true",
        "ALLOWED_IPS": ",".join(allowed),
        "WORKER_CONCURRENCY": str(settings.vast_concurrency),
        "WORKER_LIFETIME_SECONDS": str(settings.vast_max_lifetime),
        "WORKER_SILENCE_SECONDS": str(SILENCE_S),
        **worker_secrets(signer, rental),
    }
    assert all(len(value) <= MOST_CHARACTERS for value in told.values()), "a value is too long for Vast.ai"
    return told
