"""Vast.ai as a cloud of rented machines: its API, and how its responses are interpreted.

Responses are not taken at face value: a 404 may mean a wrong key, a 200 may contain a refusal, a refusal may contain
the id of a machine that now exists, and a listing counts only if it is complete. The code that interprets errors,
instances and listings is shared with the reaper, which has to run as a single file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlencode

import requests
import structlog

from common.clock import DAY_MS, Clock, SystemClock
from gateway.providers.base import Unavailable
from gateway.providers.clouds.vast import offers, reap
from gateway.providers.clouds.vast.offers import Row
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.http import Answer, Api
from gateway.providers.rental.cloud import (
    CANNOT_PAY,
    NO_ANSWER,
    OFFER_GONE,
    InconclusiveListing,
    Machine,
    NotCreated,
    Offer,
    Order,
    Status,
)
from gateway.providers.rental.environment import PORT
from gateway.providers.throttling import RateLimited, RateLimiter

log = structlog.get_logger(__name__)

# Minimum seconds between the starts of two calls of a kind: the published limits (4.5, 2, 1, 3) plus a margin, since
# calls take different times to arrive. Searches are limited per minute.
SPACING_S = {"create": 4.8, "show": 2.3, "list": 1.3, "destroy": 3.3, "account": 2.0}
SEARCHES_A_MINUTE = 10
# How long a call waits for the rate limiter, and how long calls of its kind pause after a 429 without Retry-After.
TURN_S = 10.0
PAUSE_S = 10.0
SEARCH_PAUSE_S = 300.0
# The longest pause that a Retry-After can cause: without listings and destroy calls, machines run unmanaged.
MAX_PAUSE_S, MAX_SEARCH_PAUSE_S = 300.0, 86_400.0
# Error code of a search when the day's quota is used up. It lasts until midnight UTC.
QUOTA_EXCEEDED = "search_quota_exceeded"
# Longer values of environment variables are truncated or refused.
MAX_VALUE_CHARACTERS = 256
_STATUS: Mapping[str, Status] = {
    "running": Status.RUNNING,
    **dict.fromkeys(("unknown", "offline", "frozen"), Status.LOST),
    **dict.fromkeys(("stopped", "exited"), Status.ENDED),
}
NO_MORE_SEARCHES = "the day's searches at Vast.ai are used up; it allows more after midnight UTC"
_CODES = {"no_such_ask": OFFER_GONE, "insufficient_credit": CANNOT_PAY, "spend_rate_limit": CANNOT_PAY}


class VastCloud:
    """The account VAST_API_KEY. All threads share the minimum time between two calls of a kind."""

    name = "vast"
    title = "Vast.ai"

    def __init__(self, settings: VastSettings, clock: Clock | None = None) -> None:
        self._settings, self._clock = settings, clock or SystemClock()
        # Day (UTC, since 1970) on which no further search is allowed.
        self._day_without_search: int | None = None
        # A reused connection that the server has closed would make the create call ambiguous.
        self._api = Api(settings.api_base, {"Authorization": f"Bearer {settings.api_key}"}, keep_alive=False)
        self._limiters = {kind: RateLimiter(1, spacing_s, 1) for kind, spacing_s in SPACING_S.items()}
        self._limiters["search"] = RateLimiter(SEARCHES_A_MINUTE, 60, 1)

    def search(self) -> Sequence[Offer]:
        rows = self.offer_rows(offers.query(self._settings))
        if len(rows) >= offers.MAX_OFFERS and not any(map(offers.can_encode, rows)):
            rows = [*rows, *self.offer_rows(offers.query(self._settings, whole=True))]
        return offers.usable(rows, self._settings)

    def offer_rows(self, filters: Mapping[str, Any]) -> Sequence[Row]:
        """Return offers as Vast.ai filters them, whether they fit or not. Raises Unavailable."""
        if self._day_without_search == self._today():
            raise Unavailable(NO_MORE_SEARCHES)
        answer = self._call("search", "POST", "/api/v0/bundles/", filters)
        found = answer.body.get("offers")
        if answer.status != 200 and QUOTA_EXCEEDED in reap.words(answer.body):
            log.warning("cloud.search_quota_exceeded", provider=self.name)
            self._day_without_search = self._today()
            raise Unavailable(NO_MORE_SEARCHES)
        if answer.status != 200 or not isinstance(found, list):
            _refuse(answer)
        return [offer for offer in found if isinstance(offer, Mapping)]

    def create(self, offer: Offer, order: Order) -> int:
        request = creation(order)
        try:
            answer = self._api.call("PUT", f"/api/v0/asks/{offer.id}/", request)
        except requests.RequestException as error:
            raise NotCreated(NO_ANSWER, f"the answer was lost: {type(error).__name__}") from error
        self._pause_after(answer, "create")
        found = answer.body.get("new_contract")
        remote_id = found if type(found) is int and found > 0 else None
        if answer.status == 200 and answer.body.get("success") is True and remote_id is not None:
            return remote_id
        code = _code(answer)
        # an id in an error may belong to any machine, so a new machine may exist
        raise NotCreated(code, _described(answer), certain=code == OFFER_GONE and remote_id is None)

    def list(self) -> Sequence[Machine]:
        try:
            return [_machine(row) for row in reap.listing(self._page)]
        except reap.Unclear as error:
            raise InconclusiveListing(f"Vast.ai {error}") from error

    def get(self, machine_id: int) -> Machine | None:
        answer = self._look("show", f"/api/v0/instances/{machine_id}/")
        try:
            row = reap.shown(answer.status, answer.body, machine_id)
        except reap.Unclear as error:
            raise InconclusiveListing(f"Vast.ai {error}") from error
        return None if row is None else _machine(row)

    def destroy(self, machine_id: int) -> bool:
        answer = self._call("destroy", "DELETE", f"/api/v0/instances/{machine_id}/")
        gone = reap.gone(answer.status, answer.body)
        if not gone and (answer.status != 200 or answer.body.get("success") is False):
            _refuse(answer)
        return gone

    def await_create(self) -> None:
        self._await_turn("create")

    def credit(self) -> float:
        answer = self._call("account", "GET", "/api/v0/users/current/")
        found = answer.body.get("credit", answer.body.get("balance"))
        if answer.status != 200 or isinstance(found, bool) or not isinstance(found, int | float):
            _refuse(answer)
        return float(found)

    def _page(self, query: Mapping[str, object]) -> tuple[int, Mapping[str, Any]]:
        answer = self._look("list", f"/api/v1/instances/?{urlencode(query)}")
        return answer.status, answer.body

    def _look(self, kind: str, path: str) -> Answer:
        try:
            return self._call(kind, "GET", path)
        except Unavailable as error:
            raise InconclusiveListing(str(error)) from error

    def _call(self, kind: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        self._await_turn(kind)
        try:
            answer = self._api.call(method, path, body)
        except requests.RequestException as error:
            raise Unavailable(f"Vast.ai cannot be reached: {type(error).__name__}") from error
        self._pause_after(answer, kind)
        return answer

    def _await_turn(self, kind: str) -> None:
        """Wait until a call of this kind may start. Only the starts are spaced; calls may overlap."""
        try:
            with self._limiters[kind].call(TURN_S):
                pass
        except RateLimited as error:
            raise Unavailable("the rate limit of Vast.ai is reached", error.retry_in_s) from error

    def _pause_after(self, answer: Answer, kind: str) -> None:
        if answer.status == 429 and QUOTA_EXCEEDED not in reap.words(answer.body):
            default_s, max_s = (SEARCH_PAUSE_S, MAX_SEARCH_PAUSE_S) if kind == "search" else (PAUSE_S, MAX_PAUSE_S)
            pause_s = default_s if answer.retry_after_s is None else min(answer.retry_after_s, max_s)
            log.warning("cloud.rate_limited", provider=self.name, kind=kind, pause_s=pause_s)
            self._limiters[kind].close(pause_s)

    def _today(self) -> int:
        return self._clock.now_ms() // DAY_MS


def creation(order: Order) -> dict[str, object]:
    """The body of a create call."""
    assert all(len(value) <= MAX_VALUE_CHARACTERS for value in order.environment.values()), "too long for Vast.ai"
    return {
        "client_id": "me",
        "image": order.image,
        "runtype": "args",  # keeps the image's own entry point
        "disk": offers.DISK_GB,
        "label": order.label,
        "cancel_unavail": True,
        "env": {f"-p {order.port}:{order.port}": "1", **order.environment},
    }


def _machine(row: Row) -> Machine:
    label, word = row.get("label"), row.get("actual_status")
    machine_id, started_at, price = row.get("machine_id"), row.get("start_date"), row.get("dph_total")
    host, port = _address(row)
    return Machine(
        id=row["id"],
        label=label if isinstance(label, str) else None,
        status=_STATUS.get(str(word), Status.STARTING),
        word=str(word or "—"),
        host=host,
        port=port,
        price=float(price) if isinstance(price, int | float) and math.isfinite(price) else None,
        machine_id=machine_id if isinstance(machine_id, int) else None,
        started_at=float(started_at) if isinstance(started_at, int | float) else None,
    )


def _address(row: Row) -> tuple[str | None, int | None]:
    host = str(row.get("public_ipaddr") or "").strip()
    ports = row.get("ports")
    mapped = ports.get(f"{PORT}/tcp") if isinstance(ports, Mapping) else None
    for entry in mapped if isinstance(mapped, list) else ():
        if not isinstance(entry, Mapping) or str(entry.get("HostIp")) == "::":
            continue
        port = str(entry.get("HostPort") or "")
        if port.isdecimal() and 0 < int(port) < 65536 and host:
            return host, int(port)
    return host or None, None


def _code(answer: Answer) -> str:
    """Return the error code of a refused create call; some responses have it only in their message."""
    words = reap.words(answer.body)
    if known := next((code for word, code in _CODES.items() if word in words), None):
        return known
    return words[0] if isinstance(words[0], str) and words[0] else f"status_{answer.status}"


def _described(answer: Answer) -> str:
    return reap.described(answer.status, answer.body)


def _refuse(answer: Answer) -> NoReturn:
    if reap.locked_out(answer.status, answer.body):
        raise Unavailable("Vast.ai refuses this gateway's key: check VAST_API_KEY")
    raise Unavailable(f"Vast.ai failed: {_described(answer)}")
