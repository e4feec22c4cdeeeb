"""RunPod Serverless: a queue in front of workers that start and stop with the work.

Jobs are submitted with `/run` and polled with `/status`. `/runsync` is never used: if the connection broke, the id of a
billed job would be lost. RunPod knows attempts by its own ids only, so an attempt whose submit was ambiguous is found
only when its worker claims it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests
import structlog
from marshmallow import ValidationError

from gateway.domain.attempts import Attempt
from gateway.domain.jobs import MARGIN_MS
from gateway.domain.prices import Price
from gateway.providers.base import (
    Accepted,
    Ambiguous,
    Context,
    JobInput,
    NotYet,
    Phase,
    Refused,
    Remote,
    Unavailable,
)
from gateway.providers.http import Answer, Api, never_sent
from gateway.providers.runpod.gpus import POOLS, price_nano_per_s
from gateway.providers.runpod.settings import RunPodSettings
from gateway.providers.throttling import Breaker, RateLimited, RateLimiter
from wire.envelope import ErrorSchema, ResultSchema
from wire.errors import Cancelled, InvalidParams, JobError, JobTimeout, WorkerError, WorkerLost

log = structlog.get_logger(__name__)

# All states of a job at RunPod.
PHASES: Mapping[str, Phase] = {
    "IN_QUEUE": Phase.WAITING,
    "IN_PROGRESS": Phase.RUNNING,
    "RUNNING": Phase.RUNNING,
    "COMPLETED": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "CANCELLED": Phase.FAILED,
    "TIMED_OUT": Phase.FAILED,
}
_TIMES = ("executionTime", "delayTime")
# RunPod's ids are UUIDs with a suffix. Other values might be unsafe in a path or too long for the database.
_ID = re.compile(r"[A-Za-z0-9][\w.:-]{0,199}", re.ASCII)
# RunPod keeps no job for longer, so none can have taken longer.
MAX_MS = 7 * 86_400_000
MAX_BODY_BYTES = 10_000_000
# How long a job waits there before its client is given a reason, and how long `/health` is cached.
QUIET_S = 10
HEALTH_KEPT_S = 5.0
# How long a call waits for the rate limiter, and how long calls pause after a 429 without Retry-After.
TURN_S = 2.0
PAUSE_S = 5.0
MAX_PAUSE_S = 60.0


def rate_limiters() -> dict[str, RateLimiter]:
    """The published limits: calls per window, window in seconds, calls at once. That of `/health` is our own.

    The dispatcher's poll scheduler spreads the calls of `/status`; this only keeps them below the limit.
    """
    return {
        "run": RateLimiter(1000, 10, 200),
        "status": RateLimiter(2000, 10, 400),
        "cancel": RateLimiter(100, 10, 20),
        "health": RateLimiter(20, 10, 2),
    }


class RunPodProvider:
    """The endpoint RUNPOD_ENDPOINT_ID."""

    name = "runpod"

    def __init__(self, context: Context) -> None:
        own = context.settings.of(RunPodSettings)
        self._clock = context.clock
        self.queue_limit_s: int | None = own.queue_limit_s
        base = f"{own.api_base.rstrip('/')}/{quote(own.endpoint_id or '', safe='')}"
        self._api = Api(base, {"Authorization": f"Bearer {own.api_key}"}, keep_alive=True)
        self._prices, self._idle_s = own.gpu_prices, own.idle_timeout_s
        self._last_price = max(price_nano_per_s(pool.name, self._prices) or 0 for pool in POOLS.values() if pool.nvenc)
        self._limiters = rate_limiters()
        self._breaker = Breaker()
        self._health_lock = threading.Lock()
        self._health: Mapping[str, Any] | Unavailable = Unavailable("RunPod has not given a reason yet")
        self._health_at = -HEALTH_KEPT_S

    def submit(self, attempt: Attempt, job_input: JobInput) -> Accepted | NotYet:
        body = f'{{"input": {job_input.text}, "policy": {json.dumps(self._policy(attempt, job_input))}}}'
        if (size := len(body.encode())) > MAX_BODY_BYTES:
            raise Refused(InvalidParams(f"The job's parameters are too large: {size} bytes; RunPod takes 10 MB."))
        try:
            answer = self._call("run", "POST", "/run", body)
        except RateLimited as error:
            return NotYet("the rate limit of RunPod is reached", error.retry_in_s)
        except requests.RequestException as error:
            if never_sent(error):
                raise Unavailable(f"RunPod cannot be reached: {type(error).__name__}") from error
            raise Ambiguous(f"RunPod's response was lost: {type(error).__name__}") from error
        remote_id = answer.body.get("id")
        if answer.status == 200 and isinstance(remote_id, str) and _ID.fullmatch(remote_id):
            return Accepted(remote_id)
        if answer.status < 300 or answer.status >= 500:
            raise Ambiguous(f"RunPod returned status {answer.status} and no job id")
        raise _not_usable(answer)

    def poll(self, attempt: Attempt) -> Remote:
        if attempt.remote_id is None:
            return Remote(Phase.WAITING)
        answer = self._ask("status", "GET", f"/status/{quote(attempt.remote_id, safe='')}")
        if answer.status == 404:
            # a worker may still run a job that RunPod has forgotten: rely on its claim and its events
            return Remote(Phase.GONE) if attempt.claimed_at is None else Remote(Phase.RUNNING)
        if answer.status != 200:
            raise _not_usable(answer)
        status = answer.body.get("status")
        if not isinstance(status, str):
            raise Unavailable("RunPod returned an invalid response")
        if status == "IN_QUEUE":
            # RunPod requeues a job that lost its worker: rely on its claim and its events
            return self._waiting(attempt) if attempt.claimed_at is None else Remote(Phase.RUNNING)
        if status not in PHASES:
            self.cancel(attempt)  # its state there is unknown: it must not keep running
            return Remote(
                Phase.FAILED, error=WorkerError(f"RunPod reported an unknown state of the job: {status:.40}.")
            )
        remote = _remote(status, answer.body)
        if isinstance(remote.error, WorkerLost) and attempt.claimed_at is not None:
            return Remote(Phase.RUNNING)  # as above
        return remote

    def cancel(self, attempt: Attempt) -> None:
        if attempt.remote_id is None:
            return  # its worker gets a 409 when it claims the attempt
        answer = self._ask("cancel", "POST", f"/cancel/{quote(attempt.remote_id, safe='')}")
        if answer.status not in {200, 400, 404}:  # 400: it has ended
            raise _not_usable(answer)

    def reconcile(self) -> None:
        """RunPod starts and stops its workers itself."""

    def check(self) -> None:
        answer = self._ask("health", "GET", "/health")
        if answer.status != 200 or not isinstance(answer.body.get("workers"), Mapping):
            raise _not_usable(answer)

    def workers(self) -> Mapping[str, int]:
        counts = self._known_health().get("workers")
        known = counts.items() if isinstance(counts, Mapping) else ()
        return {str(state): count for state, count in known if isinstance(count, int)}

    def price(self, attempt: Attempt, gpu: str | None) -> Price:
        """Return the price of the GPU; for an unknown one, the last known price or the highest of a GPU with NVENC."""
        known = price_nano_per_s(gpu, self._prices) if gpu else None
        if known is not None:
            self._last_price = known
        return Price(self._last_price, self._idle_s)

    def _policy(self, attempt: Attempt, job_input: JobInput) -> dict[str, int]:
        """RunPod's limits in ms: the time for a run, upload included, and the time until the job is discarded."""
        execution = job_input.timeout_s * 1000 + MARGIN_MS
        ttl = max(0, attempt.deadline - self._clock.now_ms())
        return {"executionTimeout": execution, "ttl": min(MAX_MS, ttl + MARGIN_MS)}

    def _waiting(self, attempt: Attempt) -> Remote:
        if self._clock.now_ms() - (attempt.sent_at or attempt.created_at) <= QUIET_S * 1000:
            return Remote(Phase.WAITING)
        try:
            return Remote(Phase.WAITING, reason=why_waiting(self._known_health()))
        except Unavailable as error:
            return Remote(Phase.WAITING, reason=str(error))

    def _known_health(self) -> Mapping[str, Any]:
        """Return the `/health` document. One thread refreshes it; others use the cached one. Raises Unavailable."""
        if time.monotonic() - self._health_at > HEALTH_KEPT_S and self._health_lock.acquire(blocking=False):
            try:
                self._health = self._ask("health", "GET", "/health").body
            except Unavailable as error:
                self._health = error
            finally:
                self._health_at = time.monotonic()
                self._health_lock.release()
        if isinstance(self._health, Unavailable):
            raise Unavailable(str(self._health))
        return self._health

    def _ask(self, kind: str, method: str, path: str) -> Answer:
        """Make a call that may be repeated. Raises Unavailable."""
        try:
            answer = self._call(kind, method, path)
        except RateLimited as error:
            raise Unavailable("the rate limit of RunPod is reached") from error
        except requests.RequestException as error:
            raise Unavailable(f"RunPod cannot be reached: {type(error).__name__}") from error
        if answer.status >= 500:
            raise Unavailable(f"RunPod returned status {answer.status}")
        return answer

    def _call(self, kind: str, method: str, path: str, body: str | None = None) -> Answer:
        """Raises Unavailable while the breaker is open, RateLimited, or requests.RequestException."""
        if (pause := self._breaker.closed_in_s()) > 0:
            raise Unavailable("RunPod keeps failing; calls to it are paused", pause)
        with self._limiters[kind].call(TURN_S):
            try:
                answer = self._api.call(method, path, body)
            except requests.RequestException:
                self._failed()
                raise
        if answer.status in {401, 402, 403} or answer.status >= 500 or (kind == "run" and answer.status == 404):
            self._failed()
        elif self._breaker.succeeded():
            log.info("provider.recovered", provider=self.name)
        if answer.status == 429:
            pause = min(MAX_PAUSE_S, answer.retry_after_s or PAUSE_S)
            self._limiters[kind].close(pause)
            log.warning("provider.rate_limited", provider=self.name, kind=kind, pause_s=pause)
            raise RateLimited(pause)
        return answer

    def _failed(self) -> None:
        if self._breaker.failed():
            log.error("provider.paused", provider=self.name)


def _not_usable(answer: Answer) -> Unavailable:
    """The error for a response that no job can have caused, because the account or the endpoint is wrong."""
    match answer.status:
        case 401 | 403:
            return Unavailable("RunPod refuses this gateway's key: check RUNPOD_API_KEY")
        case 402:
            return Unavailable("the RunPod account has no credit left")
        case 404:
            return Unavailable("RunPod has no such endpoint: check RUNPOD_ENDPOINT_ID")
    reason = answer.body.get("error") or answer.body.get("title") or answer.body.get("detail") or ""
    return Unavailable(f"RunPod returned status {answer.status}: {reason!s:.200}".rstrip(": "))


def why_waiting(health: Mapping[str, Any]) -> str:
    """Why no worker takes a job, according to a `/health` document."""
    counts = health.get("workers")
    if not isinstance(counts, Mapping):
        return "RunPod gives no reason"
    workers = {str(name): count for name, count in counts.items() if isinstance(count, int) and count > 0}
    if any(workers.get(name) for name in ("running", "idle", "ready")):
        return "its workers are busy"
    if unhealthy := workers.get("unhealthy"):
        return f"its workers crash when they start ({unhealthy} unhealthy)"
    if workers.get("initializing"):
        return "its workers are still starting"
    if throttled := workers.get("throttled"):
        return f"RunPod has no GPU free for it ({throttled} throttled)"
    return "the endpoint has no workers; its max workers may be 0"


def _remote(status: str, body: Mapping[str, Any]) -> Remote:
    phase = PHASES[status]
    execution_ms, delay_ms = (_ms(body.get(name)) for name in _TIMES)
    took_ms = None if execution_ms is None or delay_ms is None else execution_ms + delay_ms
    if phase is Phase.RUNNING:
        return Remote(phase, progress=_progress(body.get("output")))
    if phase is Phase.COMPLETED:
        try:
            return Remote(phase, result=ResultSchema().load(body["output"]), execution_ms=execution_ms, took_ms=took_ms)
        except (KeyError, ValidationError) as error:
            lost = WorkerError("RunPod lost the worker's result.", detail=repr(error))
            return Remote(Phase.FAILED, error=lost, execution_ms=execution_ms)
    ended = {"CANCELLED": Cancelled(), "TIMED_OUT": JobTimeout()}.get(status)
    return Remote(phase, error=ended or job_error(body.get("error")), execution_ms=execution_ms)


def _ms(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_MS else None


def job_error(raw: Any) -> JobError:
    """The error of a failed job: the worker's own JSON, the SDK's, or RunPod's text."""
    if isinstance(raw, str) and "timed out after" in raw:
        return WorkerLost(f"RunPod lost the worker: {raw[:200]}.")
    try:
        error: JobError = ErrorSchema().load(json.loads(raw))
        return error
    except (TypeError, ValueError, RecursionError, ValidationError):
        return WorkerError(detail=str(raw))


def _progress(output: Any) -> float:
    value = output.get("progress") if isinstance(output, Mapping) else None
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else 0.0
