"""Records what workers report of their attempts: the claim, progress and the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from common.clock import Clock
from gateway.db.store import Store
from gateway.db.transaction import StaleLease
from gateway.dispatch.attempt_writer import AttemptWriter, Ending, Update, Written, on_attempt
from gateway.dispatch.output_check import check_outputs
from gateway.domain import transitions
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from gateway.errors import AttemptSuperseded
from gateway.settings import Settings
from gateway.storage import Storage, StorageUnavailable
from gateway.upkeep.metrics import Metrics
from wire.envelope import Event
from wire.errors import JobError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WorkerReports:
    """Records events, each in one short transaction."""

    settings: Settings
    store: Store
    storage: Storage
    clock: Clock
    writer: AttemptWriter
    metrics: Metrics

    def take(self, attempt_id: str, event: Event) -> None:
        """Record the event. Raises AttemptSuperseded when the worker should stop, and StorageUnavailable."""
        attempt = self.store.attempt(attempt_id)
        if attempt is None:
            raise AttemptSuperseded
        structlog.contextvars.bind_contextvars(job_id=attempt.job_id)
        if event.type == "completed" and event.result is not None:
            self._completed(attempt, event.claim_id, event.result)
        elif event.type == "failed" and event.error is not None:
            self._failed(attempt, event.claim_id, event.error)
        elif event.type == "started":
            self._started(attempt, event.claim_id)
        else:
            self._progressed(attempt, event.claim_id, event.progress or 0.0)

    def _started(self, attempt: Attempt, claim_id: str) -> None:
        claim = partial(transitions.claim, claim_id=claim_id, now=self.clock.now_ms())
        written = self._write(claim, attempt)
        log.info("attempt.claimed")
        claimed, before = written.attempt, written.attempt_before
        if claimed is not None and before is not None and before.claim_id is None:  # not for a repeated claim
            self.metrics.claimed(claimed)

    def _progressed(self, attempt: Attempt, claim_id: str, progress: float) -> None:
        self._write(partial(transitions.beat, claim_id=claim_id, progress=progress, now=self.clock.now_ms()), attempt)

    def _completed(self, attempt: Attempt, claim_id: str, result: Mapping[str, Any]) -> None:
        job = self.store.job(attempt.job_id)
        if job is None:
            raise AttemptSuperseded
        try:
            error = check_outputs(self.storage, job, attempt, result, self.settings.max_output_bytes)
        except StorageUnavailable:
            # The worker will report again; until then it must not count as lost.
            self._progressed(attempt, claim_id, 0.0)
            raise
        if error is not None:
            self._failed(attempt, claim_id, error)
            return
        complete = partial(transitions.complete, result=result, now=self.clock.now_ms())
        self._end(attempt, claim_id, AttemptState.DONE, complete, Ending(result["stats"]))

    def _failed(self, attempt: Attempt, claim_id: str, error: JobError) -> None:
        fail = partial(transitions.fail, error=error, now=self.clock.now_ms())
        self._end(attempt, claim_id, AttemptState.FAILED, fail, Ending())

    def _end(
        self,
        attempt: Attempt,
        claim_id: str,
        end: AttemptState,
        change: Callable[[Job, Attempt], transitions.Pair],
        ending: Ending,
    ) -> None:
        """Record the end of an attempt. A repeated report changes nothing."""

        def once(job: Job, attempt: Attempt) -> transitions.Pair:
            return change(job, attempt) if transitions.held(job, attempt, claim_id, end) else (job, attempt)

        self._write(once, attempt, ending)

    def _write(
        self, change: Callable[[Job, Attempt], transitions.Pair], attempt: Attempt, ending: Ending | None = None
    ) -> Written:
        try:
            return self.writer.write(attempt.job_id, Update(attempt, on_attempt(change), ending=ending))
        except StaleLease:
            raise AttemptSuperseded from None  # the job has been removed
