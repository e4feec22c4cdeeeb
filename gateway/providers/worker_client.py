"""Calls an HTTP worker, for every provider that drives one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from marshmallow import ValidationError

from gateway.providers.base import Accepted, Ambiguous, NotYet, Phase, Refused, Remote, Unavailable
from gateway.providers.http import Answer, Api, never_sent
from gateway.signing import Signer
from wire.envelope import ErrorSchema, ResultSchema
from wire.errors import InvalidParams, JobError, WorkerOutdated

_RETRY_S = 2.0


def worker_secrets(signer: Signer, instance: str = "local") -> dict[str, str]:
    """The session token and the worker's own key of one instance, both made from SECRET_KEY."""
    return {
        "SESSION_TOKEN": signer.derive("session-token", instance),
        "WORKER_API_KEY": signer.derive("worker-key", instance),
    }


class WorkerClient:
    """One worker at `base_url`, with its own session token and key."""

    def __init__(self, base_url: str, session_token: str, api_key: str) -> None:
        # A kept connection that the worker has just closed would make the next submit ambiguous.
        self._api = Api(base_url, {"X-Session-Token": session_token, "X-API-Key": api_key}, keep_alive=False)

    def submit(self, job_input: Mapping[str, Any]) -> Accepted | NotYet:
        """Hand over a worker's input; the answer and the errors are those of `Provider.submit`."""
        try:
            answer = self._api.call("POST", f"/video/{job_input['operation']}", job_input)
        except requests.RequestException as error:
            if never_sent(error):
                return NotYet("the worker is not up", _RETRY_S)
            raise Ambiguous(f"the worker's answer was lost: {error}") from error
        return _submitted(answer)

    def poll(self, attempt_id: str) -> Remote:
        """What the worker tells of the attempt; GONE when it does not know it. Raises Unavailable."""
        answer = self._ask("GET", f"/jobs/{attempt_id}")
        if answer.status == 404:
            return Remote(Phase.GONE)
        if answer.status != 200:
            raise Unavailable(f"the worker answered with status {answer.status}")
        return _remote(answer.body)

    def cancel(self, attempt_id: str) -> None:
        """Raises Unavailable; an unknown attempt is no error."""
        answer = self._ask("DELETE", f"/jobs/{attempt_id}")
        if answer.status not in {200, 404}:
            raise Unavailable(f"the worker answered with status {answer.status}")

    def check(self) -> None:
        """Raises Unavailable with the reason."""
        answer = self._ask("GET", "/health")
        if answer.status != 200:
            raise Unavailable(_reason(answer))

    def _ask(self, method: str, path: str) -> Answer:
        try:
            return self._api.call(method, path)
        except requests.RequestException as error:
            raise Unavailable(f"the worker cannot be reached: {type(error).__name__}") from error


def _submitted(answer: Answer) -> Accepted | NotYet:
    match answer.status, answer.body.get("code"):
        case 202, _ if isinstance(attempt_id := answer.body.get("attemptId"), str):
            return Accepted(attempt_id)
        case 503, _:
            return NotYet("the worker is busy", _RETRY_S)
        case 401 | 403, _:
            raise Unavailable(f"the worker does not let this gateway in: {_reason(answer)}")
        case 400, WorkerOutdated.code:
            raise Unavailable(_reason(answer))
        case ((404 | 405 | 413 | 415), _):
            raise Unavailable(f"the worker does not take such a job: {_reason(answer)}")
        case 400, InvalidParams.code:
            raise Refused(InvalidParams(_reason(answer)))
    raise Ambiguous(f"the worker answered with status {answer.status}")


def _remote(body: Mapping[str, Any]) -> Remote:
    try:
        status = body["status"]
        if status == "running":
            return Remote(Phase.RUNNING, progress=_progress(body["progress"]))
        if status == "completed":
            return Remote(Phase.COMPLETED, result=ResultSchema().load(body["result"]))
        if status in {"failed", "cancelled"}:
            return Remote(Phase.FAILED, error=_error(body["error"]))
    except (KeyError, TypeError, ValueError, OverflowError, ValidationError) as error:
        raise Unavailable(f"the worker's answer makes no sense: {error!r}") from error
    raise Unavailable(f"the worker tells an unknown status {status!r}")


def _progress(raw: Any) -> float:
    progress = float(raw)
    if not 0 <= progress <= 1:
        raise ValueError(f"progress {progress}")
    return progress


def _error(raw: Mapping[str, Any]) -> JobError:
    error: JobError = ErrorSchema().load(raw)
    return error


def _reason(answer: Answer) -> str:
    return str(answer.body.get("title") or f"status {answer.status}")
