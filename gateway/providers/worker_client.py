"""Calls an HTTP worker, for every provider that drives one."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from marshmallow import ValidationError

from gateway.providers.base import Accepted, Ambiguous, NotYet, Phase, Refused, Remote, Unavailable
from gateway.providers.http import CONNECT_TIMEOUT_S, Answer, Api, never_sent, wrong_certificate
from gateway.providers.pinned_tls import presented_certificate
from gateway.signing import Signer
from wire.envelope import ErrorSchema, ResultSchema
from wire.errors import InvalidParams, JobError, WorkerOutdated
from wire.identity import fingerprint_of, proof

_RETRY_S = 2.0


def worker_secrets(signer: Signer, instance: str = "local") -> dict[str, str]:
    """The session token and the worker's own key of one instance, both made from SECRET_KEY."""
    return {
        "SESSION_TOKEN": signer.derive("session-token", instance),
        "WORKER_API_KEY": signer.derive("worker-key", instance),
    }


@dataclass(frozen=True)
class Health:
    """What a worker tells of itself: slots in all, those that are taken, and the caller's address as seen there."""

    slots: int
    busy: int
    peer: str


class Unreachable(Unavailable):
    """The worker was not reached. `silent`: nothing at all came back, where a refused connection is a sign of life."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the worker cannot be reached: {type(error).__name__}")
        self.silent = isinstance(error, requests.Timeout | TimeoutError)


class NotAllowed(Unavailable):
    """The worker knows our secrets, but lets nobody in from `peer`, which is our address as seen there."""

    def __init__(self, peer: str) -> None:
        super().__init__(f"the worker lets nobody in from {peer}, as it sees this gateway")
        self.peer = peer


class WorkerClient:
    """One worker at `base_url`, with its own session token and key.

    With `tls` the worker first has to prove that the certificate it shows is its own; every call is then made to that
    certificate and no other. One that has started anew has a new certificate, and is asked for its proof again.
    """

    def __init__(self, base_url: str, session_token: str, api_key: str, *, tls: bool = False) -> None:
        self._base, self._token, self._key = base_url, session_token, api_key
        self._api = None if tls else self._entrusted()

    def submit(self, job_input: Mapping[str, Any]) -> Accepted | NotYet:
        """Hand over a worker's input; the answer and the errors are those of `Provider.submit`."""
        try:
            answer = self._call("POST", f"/video/{job_input['operation']}", job_input)
        except Unreachable:  # before it was asked for anything
            return NotYet("the worker is not up", _RETRY_S)
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

    def health(self) -> Health:
        """Raises Unreachable, NotAllowed, or Unavailable with the reason."""
        answer = self._ask("GET", "/health")
        if answer.status == 403 and isinstance(peer := answer.body.get("peer"), str):
            raise NotAllowed(peer)
        if answer.status != 200:
            raise Unavailable(_reason(answer))
        try:
            slots = answer.body["slots"]
            return Health(int(slots["total"]), int(slots["busy"]), str(answer.body["peer"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unavailable(f"the worker's answer makes no sense: {error!r}") from error

    def check(self) -> None:
        """Raises Unavailable with the reason."""
        self.health()

    def _ask(self, method: str, path: str) -> Answer:
        try:
            return self._call(method, path)
        except requests.RequestException as error:
            raise Unreachable(error) from error

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Raises requests.RequestException of the call itself, Unavailable of what comes before it."""
        api = self._api or self._proven()
        try:
            return api.call(method, path, body)
        except requests.RequestException as error:
            if not wrong_certificate(error):
                raise
        return self._proven().call(method, path, body)

    def _proven(self) -> Api:
        """The worker by the certificate that it shows now, once it has proved that this is its own."""
        try:
            parts = urlsplit(self._base)
            der = presented_certificate(parts.hostname or "", parts.port or 443, CONNECT_TIMEOUT_S)
            fingerprint, nonce = fingerprint_of(der), secrets.token_hex(16)
            stranger = Api(self._base, {}, keep_alive=False, fingerprint=fingerprint)
            answer = stranger.call("GET", f"/identity?nonce={nonce}")
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            raise Unreachable(error) from error
        told, expected = answer.body.get("proof"), proof(self._token, nonce, fingerprint)
        if not (isinstance(told, str) and told.isascii() and hmac.compare_digest(told, expected)):
            raise Unavailable(f"who answers has not proved to be the worker (status {answer.status})")
        self._api = self._entrusted(fingerprint)
        return self._api

    def _entrusted(self, fingerprint: str | None = None) -> Api:
        # A kept connection that the worker has just closed would make the next submit ambiguous.
        headers = {"X-Session-Token": self._token, "X-API-Key": self._key}
        return Api(self._base, headers, keep_alive=False, fingerprint=fingerprint)


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
