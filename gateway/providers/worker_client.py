"""Calls an HTTP worker, for every provider that drives one."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from marshmallow import ValidationError

from gateway.providers.base import Accepted, Ambiguous, JobInput, NotYet, Phase, Refused, Remote, Unavailable
from gateway.providers.http import CONNECT_TIMEOUT_S, Answer, Api, never_sent, wrong_certificate
from gateway.providers.pinned_tls import presented_certificate
from gateway.signing import Signer
from wire.envelope import ErrorSchema, ResultSchema
from wire.errors import InvalidParams, WorkerOutdated
from wire.identity import fingerprint_of, proof

_RETRY_S = 2.0


@dataclass(frozen=True)
class Credentials:
    """The secrets of one worker."""

    #: Proves the worker to the gateway, and the gateway to the worker.
    session_token: str
    #: The worker's own key.
    api_key: str

    @property
    def environ(self) -> dict[str, str]:
        """The worker's environment variables."""
        return {"SESSION_TOKEN": self.session_token, "WORKER_API_KEY": self.api_key}


def credentials_of(signer: Signer, worker: str = "local") -> list[Credentials]:
    """The credentials that a worker may have: one derived from each SECRET_KEY, the newest first."""
    tokens, keys = (signer.derive_all(purpose, worker) for purpose in ("session-token", "worker-key"))
    return [Credentials(*both) for both in zip(tokens, keys, strict=True)]


@dataclass(frozen=True)
class Health:
    """The health that a worker reports."""

    #: Attempts that it takes at once.
    slots: int
    #: Attempts that it has now.
    busy: int
    #: The caller's address as the worker sees it.
    peer: str


class Unreachable(Unavailable):
    """The worker could not be reached. `silent` is false if it refused the connection, which shows that it is up."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the worker cannot be reached: {type(error).__name__}")
        self.silent = isinstance(error, requests.Timeout | TimeoutError)


class NotAllowed(Unavailable):
    """The worker knows our secrets but refuses callers from `peer`, which is our address as it sees it."""

    def __init__(self, peer: str) -> None:
        super().__init__(f"the worker refuses callers from {peer}, as it sees this gateway")
        self.peer = peer


class WorkerClient:
    """One worker at `base_url`, with one of `credentials`: those of a worker that began before SECRET_KEY was rotated
    are older. The ones that it accepts are tried first from then on.

    With `tls`, the worker first has to prove that it owns the certificate it presents; all calls are then pinned to
    that certificate. A restarted worker has a new certificate and has to prove it again.
    """

    def __init__(self, base_url: str, credentials: Sequence[Credentials], *, tls: bool = False) -> None:
        self._base, self._credentials, self._tls = base_url, credentials, tls
        self._api = None if tls else self._trusted_api(credentials[0])

    def submit(self, job_input: JobInput) -> Accepted | NotYet:
        """Submit a worker's input. Returns and raises what `Provider.submit` does."""
        try:
            answer = self._call("POST", f"/video/{job_input.operation}", job_input.text)
        except Unreachable:  # nothing was sent
            return NotYet("the worker is not running", _RETRY_S)
        except requests.RequestException as error:
            if never_sent(error):
                return NotYet("the worker is not running", _RETRY_S)
            raise Ambiguous(f"the worker's response was lost: {error}") from error
        return _submitted(answer)

    def poll(self, attempt_id: str) -> Remote:
        """Return the state of the attempt, GONE when the worker does not know it. Raises Unavailable."""
        answer = self._ask("GET", f"/jobs/{attempt_id}")
        if answer.status == 404:
            return Remote(Phase.GONE)
        if answer.status != 200:
            raise Unavailable(f"the worker returned status {answer.status}")
        return _remote(answer.body)

    def cancel(self, attempt_id: str) -> None:
        """Cancel the attempt; an unknown one is no error. Raises Unavailable."""
        answer = self._ask("DELETE", f"/jobs/{attempt_id}")
        if answer.status not in {200, 404}:
            raise Unavailable(f"the worker returned status {answer.status}")

    def health(self) -> Health:
        """Call the health check. Raises Unreachable, NotAllowed, or Unavailable with the reason."""
        answer = self._ask("GET", "/health")
        if answer.status == 403 and isinstance(peer := answer.body.get("peer"), str):
            raise NotAllowed(peer)
        if answer.status != 200:
            raise Unavailable(_reason(answer))
        try:
            slots = answer.body["slots"]
            return Health(int(slots["total"]), int(slots["busy"]), str(answer.body["peer"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unavailable(f"the worker returned an invalid response: {error!r}") from error

    def _ask(self, method: str, path: str) -> Answer:
        try:
            return self._call(method, path)
        except requests.RequestException as error:
            raise Unreachable(error) from error

    def _call(self, method: str, path: str, body: str | None = None) -> Answer:
        """Raises requests.RequestException if the call fails, and Unavailable if the proof of identity does."""
        api = self._api or self._prove()
        try:
            answer = api.call(method, path, body)
        except requests.RequestException as error:
            if not wrong_certificate(error):
                raise
            return self._prove().call(method, path, body)
        if answer.status == 401 and not self._tls and len(self._credentials) > 1:
            return self._with_any(method, path, body)
        return answer

    def _with_any(self, method: str, path: str, body: str | None) -> Answer:
        """Repeat a call that was refused with each of the credentials, and keep those that the worker accepts."""
        for credentials in self._credentials:
            self._api = self._trusted_api(credentials)
            answer = self._api.call(method, path, body)
            if answer.status != 401:
                break
        return answer

    def _prove(self) -> Api:
        """Pin the certificate that the worker presents now, after it has proved that it owns it."""
        try:
            parts = urlsplit(self._base)
            der = presented_certificate(parts.hostname or "", parts.port or 443, CONNECT_TIMEOUT_S)
            fingerprint, nonce = fingerprint_of(der), secrets.token_hex(16)
            unverified = Api(self._base, {}, keep_alive=False, fingerprint=fingerprint)
            answer = unverified.call("GET", f"/identity?nonce={nonce}")
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            raise Unreachable(error) from error
        given = answer.body.get("proof")
        given = given.encode() if isinstance(given, str) and given.isascii() else b""
        for credentials in self._credentials:
            if hmac.compare_digest(given, proof(credentials.session_token, nonce, fingerprint).encode()):
                self._api = self._trusted_api(credentials, fingerprint)
                return self._api
        raise Unavailable(f"the server did not prove that it is the worker (status {answer.status})")

    def _trusted_api(self, credentials: Credentials, fingerprint: str | None = None) -> Api:
        # a kept connection that the worker has just closed would make the next submit ambiguous
        headers = {"X-Session-Token": credentials.session_token, "X-API-Key": credentials.api_key}
        return Api(self._base, headers, keep_alive=False, fingerprint=fingerprint)


def _submitted(answer: Answer) -> Accepted | NotYet:
    match answer.status, answer.body.get("code"):
        case 202, _ if isinstance(attempt_id := answer.body.get("attemptId"), str):
            return Accepted(attempt_id)
        case 503, _:
            return NotYet("the worker is busy", _RETRY_S)
        case 401 | 403, _:
            raise Unavailable(f"the worker refuses this gateway: {_reason(answer)}")
        case 400, WorkerOutdated.code:
            raise Unavailable(_reason(answer))
        case ((404 | 405 | 413 | 415), _):
            raise Unavailable(f"the worker rejects the request: {_reason(answer)}")
        case 400, InvalidParams.code:
            raise Refused(InvalidParams(_reason(answer)))
    raise Ambiguous(f"the worker returned status {answer.status}")


def _remote(body: Mapping[str, Any]) -> Remote:
    try:
        status = body["status"]
        if status == "running":
            return Remote(Phase.RUNNING, progress=_progress(body["progress"]))
        if status == "completed":
            return Remote(Phase.COMPLETED, result=ResultSchema().load(body["result"]))
        if status in {"failed", "cancelled"}:
            return Remote(Phase.FAILED, error=ErrorSchema().load(body["error"]))
    except (KeyError, TypeError, ValueError, OverflowError, ValidationError) as error:
        raise Unavailable(f"the worker returned an invalid response: {error!r}") from error
    raise Unavailable(f"the worker reports an unknown status {status!r}")


def _progress(raw: Any) -> float:
    progress = float(raw)
    if not 0 <= progress <= 1:
        raise ValueError(f"progress {progress}")
    return progress


def _reason(answer: Answer) -> str:
    return str(answer.body.get("title") or f"status {answer.status}")
