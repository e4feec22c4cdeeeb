"""Calls the HTTP API of a provider or a worker: with one deadline, a maximum size, and no redirects."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from urllib3.exceptions import NewConnectionError

from common.safe_http import TimelyAdapter
from gateway.providers.pinned_tls import PinnedAdapter, WrongCertificate

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10
# Time limit for a whole response.
ANSWER_S = 15
MAX_ANSWER_BYTES = 1_000_000
_CONNECTIONS = 32


@dataclass(frozen=True)
class Answer:
    """The response of the server."""

    #: HTTP status.
    status: int
    #: Empty when it was not a JSON object.
    body: Mapping[str, Any]
    #: Names in any case.
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def retry_after_s(self) -> float | None:
        """The header Retry-After, where it is in seconds."""
        text = self.headers.get("Retry-After", "")
        return float(text) if text.isdecimal() else None


class Api:
    """An API below `base_url`. With `keep_alive`, connections are reused.

    With a `fingerprint`, only a server with that certificate is called, and its signature is not checked.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, keep_alive: bool, fingerprint: str | None = None
    ) -> None:
        self._base = base_url.rstrip("/")
        self._fingerprint = fingerprint
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._kept = self._session() if keep_alive else None

    def call(self, method: str, path: str, body: Mapping[str, Any] | str | None = None) -> Answer:
        """Make one call, with an object or JSON text as its body. Raises requests.RequestException and nothing else."""
        if self._kept is not None:
            return self._call(self._kept, method, path, body)
        with self._session() as http:
            return self._call(http, method, path, body)

    def _session(self) -> requests.Session:
        http = requests.Session()
        http.trust_env = False  # no proxy of the environment may see the keys
        http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        http.headers.update(self._headers)
        if self._fingerprint is not None:
            http.verify = False  # only the certificate's fingerprint counts
            http.adapters.clear()
            http.mount("https://", PinnedAdapter(self._fingerprint))
            return http
        for scheme in ("http://", "https://"):
            http.mount(scheme, TimelyAdapter(pool_connections=1, pool_maxsize=_CONNECTIONS))
        return http

    def _call(self, http: requests.Session, method: str, path: str, body: Mapping[str, Any] | str | None) -> Answer:
        ends_at = time.monotonic() + ANSWER_S
        try:
            with http.request(
                method,
                self._base + path,
                data=None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode(),
                headers={} if body is None else {"Content-Type": "application/json"},
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                allow_redirects=False,
                stream=True,
            ) as response:
                return Answer(response.status_code, _json(_read(response, ends_at)), response.headers)
        except requests.RequestException:
            raise
        except (ValueError, urllib3.exceptions.HTTPError) as error:
            # requests does not wrap these, for example of a redirect to an invalid address
            raise requests.ConnectionError(f"the response is not HTTP: {error}") from error


def never_sent(error: requests.RequestException) -> bool:
    """Whether no connection was made, so that the request cannot have been seen."""
    return isinstance(error, requests.ConnectTimeout) or isinstance(_reason(error), NewConnectionError)


def wrong_certificate(error: requests.RequestException) -> bool:
    """Whether the server presented another certificate than the pinned one, so that nothing was sent."""
    return isinstance(_reason(error), WrongCertificate)


def _reason(error: requests.RequestException) -> object:
    return getattr(error.args[0] if error.args else None, "reason", None)


def _read(response: requests.Response, ends_at: float) -> bytes:
    # `read1` returns what has arrived, so that the deadline is also checked when one byte arrives per second
    body = b""
    while chunk := response.raw.read1(MAX_ANSWER_BYTES, decode_content=False):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise requests.ConnectionError("the response is too large")
        if time.monotonic() > ends_at:
            break
    if time.monotonic() > ends_at:  # also one without a body
        raise requests.ReadTimeout("the response came too slowly")
    return body


def _json(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    return body if isinstance(body, dict) else {}
