"""The workers on rented machines, each with its own secrets."""

from __future__ import annotations

import threading

from gateway.domain.rentals import Rental
from gateway.providers.worker_client import WorkerClient, credentials_of
from gateway.signing import Signer

_KEPT = 200


class Workers:
    """A cache of clients: a worker proves its identity once, not at every call. Safe to share between threads."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._clients: dict[tuple[str, str, int], WorkerClient] = {}
        self._lock = threading.Lock()

    def of(self, rental: Rental) -> WorkerClient:
        """Return the client for the worker at the rental's last known address."""
        assert rental.host is not None and rental.port is not None
        key = rental.id, rental.host, rental.port
        with self._lock:
            if key not in self._clients:
                if len(self._clients) >= _KEPT:
                    self._clients.clear()
                self._clients[key] = rented_worker(self._signer, rental.uuid, rental.host, rental.port)
            return self._clients[key]


def rented_worker(signer: Signer, rental_uuid: str, host: str, port: int) -> WorkerClient:
    where = f"[{host}]" if ":" in host else host
    return WorkerClient(f"https://{where}:{port}", credentials_of(signer, rental_uuid), tls=True)
