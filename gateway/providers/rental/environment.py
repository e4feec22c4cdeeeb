"""The environment of a rented worker, which the host of the machine can read."""

from __future__ import annotations

from collections.abc import Collection

from gateway.providers.rental.settings import RentalSettings
from gateway.providers.worker_client import credentials_of
from gateway.signing import Signer

PORT = 3334
# The machine destroys itself after this time without a call; the fleet manager calls every few seconds.
SILENCE_S = 420


def environment(settings: RentalSettings, signer: Signer, rental: str, allowed: Collection[str]) -> dict[str, str]:
    """The variables for the rental with this UUID, with its own secrets only. `allowed` lists callers' addresses."""
    return {
        "WORKER_MODE": "http",
        "WORKER_HOST": "0.0.0.0",  # noqa: S104  (of the container)
        "WORKER_PORT": str(PORT),
        "WORKER_TLS": "true",
        "ALLOWED_IPS": ",".join(allowed),
        "WORKER_CONCURRENCY": str(settings.concurrency),
        "NVENC_HIDE_FOREIGN_GPUS": str(settings.nvenc_hide_foreign_gpus),
        "WORKER_LIFETIME_SECONDS": str(settings.max_lifetime),
        "WORKER_SILENCE_SECONDS": str(SILENCE_S),
        **credentials_of(signer, rental)[0].environ,
    }
