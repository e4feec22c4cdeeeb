"""Wraps every call: records and limits it, injects faults, checks the response against the published schema."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Response, jsonify, make_response, request

from tests.emulators.runpod.calls import hang_up
from tests.emulators.vast import published
from tests.emulators.vast.clock import Clock
from tests.emulators.vast.config import Config
from tests.emulators.vast.faults import Fault, Faults

MINUTE_S, DAY_S = 60.0, 86_400.0


class Problem(Exception):
    """The call returns `status` and this body."""

    def __init__(self, status: int, error: str, message: str = "", **more: Any) -> None:
        super().__init__(error)
        self.status, self.body = status, {"success": False, "error": error, "msg": message, **more}
        self.headers: dict[str, str] = {}


class TooMany(Problem):
    def __init__(self, call: str, detail: str, retry_after_s: float = 0.0) -> None:
        super().__init__(429, "rate_limit_exceeded", detail)
        if retry_after_s:
            self.headers["Retry-After"] = f"{retry_after_s:.0f}"
        if call not in {"destroy", "self-destroy"}:
            self.body = {"detail": detail}


@dataclass(frozen=True)
class Call:
    """One call: `at` on the stand-in's clock, `key` as it was sent, `status` None if there was no response."""

    kind: str
    at: float
    method: str
    path: str
    query: str
    key: str
    body: Any
    status: int | None


class Limits:
    """The spacing between calls, for each key and kind. Refused calls do not count."""

    def __init__(self, config: Callable[[], Config], clock: Clock) -> None:
        self._config, self._clock, self._lock = config, clock, threading.Lock()
        self._last: dict[tuple[str, str], float] = {}
        self._searches: deque[float] = deque()
        self._today: Counter[int] = Counter()

    def admit(self, kind: str, key: str) -> None:
        """Count the call. Raises TooMany."""
        with self._lock:
            now, endpoint = self._clock.now(), kind.removeprefix("self-")
            spacing = self._config().spacing.get(endpoint, 0.0)
            if now - self._last.get((endpoint, key), -spacing) < spacing:
                raise TooMany(kind, f"API requests too frequent endpoint threshold={spacing}")
            if kind == "search":
                self._admit_search(now)
            self._last[endpoint, key] = now

    def _admit_search(self, now: float) -> None:
        while self._searches and now - self._searches[0] >= MINUTE_S:
            self._searches.popleft()
        if len(self._searches) >= self._config().searches_a_minute:
            raise TooMany("search", "API requests too frequent endpoint threshold=6.0")
        day = int(now // DAY_S)
        if self._today[day] >= self._config().searches_a_day:
            raise Problem(429, "search_quota_exceeded", "the searches of this day are used up")
        self._today[day] += 1
        self._searches.append(now)


class Calls:
    """`@calls.call("list")` makes a view a call of that kind. The view gets the fault that struck, or None."""

    def __init__(self, config: Callable[[], Config], clock: Clock, faults: Faults) -> None:
        self._config, self._clock, self.faults = config, clock, faults
        self._limits, self._lock = Limits(config, clock), threading.Lock()
        self.log: list[Call] = []
        self.unfit: list[str] = []

    def counts(self) -> Counter[str]:
        with self._lock:
            return Counter(call.kind for call in self.log)

    def reset(self) -> None:
        with self._lock:
            self.log.clear()

    def call(self, kind: str) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
        def decorate(view: Callable[..., Any]) -> Callable[..., Response]:
            @functools.wraps(view)
            def wrapper(**path: Any) -> Response:
                own = kind == "destroy" and _key() != self._config().api_key
                return self._respond("self-destroy" if own else kind, view, path)

            return wrapper

        return decorate

    def _respond(self, kind: str, view: Callable[..., Any], path: dict[str, Any]) -> Response:
        at = self._clock.now()
        try:
            self._limits.admit(kind, _key())
            response = self._struck(kind, self.faults.strike(kind), view, path)
        except Problem as problem:
            response = self._problem(kind, problem)
        with self._lock:
            body = request.get_json(silent=True)
            query = request.query_string.decode()
            status = None if response.headers.get("X-Hung-Up") else response.status_code
            self.log.append(Call(kind, at, request.method, request.path, query, _key(), body, status))
        return response

    def _struck(self, kind: str, fault: Fault | None, view: Callable[..., Any], path: dict[str, Any]) -> Response:
        what = fault.kind if fault else None
        if what == "lost_request":
            return _hung_up()
        if fault and what == "status":
            raise Problem(fault.status, "internal_error", "an injected fault")
        if fault and what == "rate_limited":
            raise TooMany(kind, "API requests too frequent endpoint threshold=1.0", fault.seconds)
        if what == "auth_error":
            raise auth_error()
        try:
            response = make_response(view(fault, **path))
            self._check(kind, response)
        except Problem as problem:
            response = self._problem(kind, problem)
        if what == "lost_reply":
            return _hung_up()
        if fault and what == "slow":
            time.sleep(fault.seconds)
        if fault and what == "garbage":
            return Response(fault.body, 200, content_type="text/html")
        return response

    def _problem(self, kind: str, problem: Problem) -> Response:
        response = jsonify(problem.body)
        response.status_code = problem.status
        response.headers.update(problem.headers)
        self._check(kind, response)
        return response

    def _check(self, kind: str, response: Response) -> None:
        violations = published.answer_violations(kind, response.status_code, response.get_json())
        with self._lock:
            self.unfit += violations


def auth_error() -> Problem:
    return Problem(404, "auth_error", "Invalid user key")


def _key() -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def _hung_up() -> Response:
    response = hang_up()
    response.headers["X-Hung-Up"] = "yes"
    return response
