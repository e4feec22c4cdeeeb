"""The addresses from which rented workers may be called: this gateway's own, as others see them."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Collection
from io import BytesIO

import requests
import structlog

from common import safe_http
from common.clock import Clock
from common.settings import variable
from gateway.providers.base import Unavailable
from gateway.providers.rental.settings import RentalSettings

log = structlog.get_logger(__name__)

# Returns the caller's address as text; the request carries nothing else about us.
ECHO = "https://api.ipify.org"
ECHO_S = 10.0
KEPT_MS, RETRY_MS = 3_600_000, 60_000


class Addresses:
    """The setting `allowed_ips`, or else what an echo service and the workers see. Safe to share between threads."""

    def __init__(
        self, settings: RentalSettings, clock: Clock, echo: str = ECHO, allow_origins: Collection[str] = ()
    ) -> None:
        self._fixed, self._variable = settings.allowed_ips, variable(type(settings), "allowed_ips")
        self._clock = clock
        self._echo, self._allow_origins = echo, allow_origins
        self._lock = threading.Lock()
        self._ask_at = 0
        self._detected: str | None = None
        self._seen: str | None = None

    def allowed(self) -> tuple[str, ...]:
        """Return the addresses that a new machine must allow. Raises Unavailable if none is known."""
        if self._fixed:
            return self._fixed
        with self._lock:
            self._detect()
            known = tuple(dict.fromkeys(one for one in (self._detected, self._seen) if one is not None))
        if not known:
            raise Unavailable(f"this gateway's public address is not known; set {self._variable}")
        return known

    def seen(self, peer: str) -> None:
        """Record that a verified worker sees this gateway as `peer`, so that new machines allow this address too.

        Ignore an address that is not public: that host hides its callers' addresses, so allowing it would allow all.
        """
        if self._fixed:
            return
        address = _public(peer)
        with self._lock:
            if address is None or address in {self._detected, self._seen}:
                return
            log.warning("address.differed", detected=self._detected, seen=address)
            self._seen = address

    def _detect(self) -> None:
        now = self._clock.now_ms()
        if 0 < self._ask_at - now <= KEPT_MS:
            return
        text = BytesIO()
        try:
            safe_http.download(self._echo, text, max_bytes=100, deadline_s=ECHO_S, allow_origins=self._allow_origins)
        except (safe_http.ForbiddenUrl, safe_http.TooLarge, safe_http.TooSlow, requests.RequestException) as error:
            log.warning("address.lookup_failed", reason=repr(error), kept=self._detected)
            self._ask_at = now + RETRY_MS
            return
        answer = text.getvalue().decode("ascii", "replace").strip()
        found = _public(answer)
        if found is None:
            log.warning("address.lookup_failed", reason=f"the answer is {answer[:50]!r}", kept=self._detected)
        self._detected = found or self._detected
        self._ask_at = now + (KEPT_MS if found else RETRY_MS)


def _public(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.removeprefix("::ffff:"))
    except ValueError:
        return None
    return str(address) if safe_http.is_public(str(address)) else None
