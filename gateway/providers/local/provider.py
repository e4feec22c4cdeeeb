"""Drives one worker that listens at a known address."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.domain.attempts import Attempt
from gateway.providers.base import Accepted, Context, JobInput, NotYet, Remote
from gateway.providers.local.settings import LocalSettings
from gateway.providers.worker_client import WorkerClient, credentials_of


class LocalProvider:
    """The worker at LOCAL_WORKER_URL, which knows attempts by our own ids."""

    name = "local"
    queue_limit_s: int | None = None

    def __init__(self, context: Context) -> None:
        self._worker = WorkerClient(context.settings.of(LocalSettings).worker_url, credentials_of(context.signer))

    def submit(self, attempt: Attempt, job_input: JobInput) -> Accepted | NotYet:
        return self._worker.submit(job_input)

    def poll(self, attempt: Attempt) -> Remote:
        return self._worker.poll(attempt.id)

    def cancel(self, attempt: Attempt) -> None:
        self._worker.cancel(attempt.id)

    def reconcile(self) -> None:
        """Do nothing: the operator manages the machine."""

    def check(self) -> None:
        self._worker.health()

    def workers(self) -> Mapping[str, int]:
        self.check()
        return {}

    def price(self, attempt: Attempt, gpu: str | None) -> None:
        return None
