"""The workers on rented machines, each by its own secrets."""

from __future__ import annotations

import threading

from gateway.instances import Instance
from gateway.providers.worker_client import WorkerClient, worker_secrets
from gateway.signing import Signer

_KEPT = 200


class Workers:
    """Clients are kept, so that a worker need not prove itself at every call. Safe to share between threads."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._clients: dict[tuple[str, str, int], WorkerClient] = {}
        self._lock = threading.Lock()

    def of(self, instance: Instance) -> WorkerClient:
        """The worker where the instance was seen last."""
        assert instance.host is not None and instance.port is not None
        key = instance.id, instance.host, instance.port
        with self._lock:
            if key not in self._clients:
                if len(self._clients) >= _KEPT:
                    self._clients.clear()
                self._clients[key] = self._made(instance, instance.host, instance.port)
            return self._clients[key]

    def _made(self, instance: Instance, host: str, port: int) -> WorkerClient:
        secrets = worker_secrets(self._signer, instance.rental)
        where = f"[{host}]" if ":" in host else host
        return WorkerClient(f"https://{where}:{port}", secrets["SESSION_TOKEN"], secrets["WORKER_API_KEY"], tls=True)
