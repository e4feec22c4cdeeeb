"""Wraps every call of either API: counts and limits it, adds latency, injects faults."""

from __future__ import annotations

import functools
import hmac
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, jsonify, make_response, request

from tests.emulators.runpod.config import WINDOW_S, Config
from tests.emulators.runpod.faults import JOB_CALLS, Fault, Faults

# In the WSGI environment: a callable that makes the server close the connection instead of responding.
HANG_UP = "emulator.hang_up"


class Problem(Exception):
    """The call returns `status` and the text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def response(self) -> Response:
        response = jsonify(error=str(self))
        response.status_code = self.status
        return response


class Calls:
    """`@calls.call("run")` makes a view a call of that kind. The view gets the fault that struck, or None.

    The kind may also be a function that returns it.
    """

    def __init__(self, config: Callable[[], Config], faults: Faults) -> None:
        self.faults = faults
        self._config, self._lock = config, threading.Lock()
        self._counts: Counter[str] = Counter()
        self._recent: defaultdict[str, deque[float]] = defaultdict(deque)

    def counts(self) -> Counter[str]:
        with self._lock:
            return Counter(self._counts)

    def reset(self) -> None:
        with self._lock:
            self._counts.clear()

    def call(self, kind: str | Callable[[], str]) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
        def decorate(view: Callable[..., Any]) -> Callable[..., Response]:
            @functools.wraps(view)
            def wrapper(**path: str) -> Response:
                name = kind if isinstance(kind, str) else kind()
                one_way_s = self._config().latency_ms / 2000 if name in JOB_CALLS else 0
                try:
                    self._admit(name)
                except Problem as error:
                    return error.response()
                time.sleep(one_way_s)
                response = self._struck(self.faults.strike(name), view, path)
                time.sleep(one_way_s)
                return response

            return wrapper

        return decorate

    def _admit(self, name: str) -> None:
        """Count the call. Raises Problem when it is over the limit of its kind."""
        with self._lock:
            self._counts[name] += 1
            recent, limit, now = self._recent[name], self._config().limits.get(name), time.monotonic()
            while recent and now - recent[0] >= WINDOW_S:
                recent.popleft()
            if limit is not None and len(recent) >= limit:
                raise Problem(429, f"{name}: more than {limit} calls in {WINDOW_S:g} s")
            recent.append(now)

    def _struck(self, fault: Fault | None, view: Callable[..., Any], path: dict[str, str]) -> Response:
        kind = fault.kind if fault else None
        if kind == "lost_request":
            return hang_up()
        if fault and kind == "status":
            return Problem(fault.status, "an injected fault").response()
        try:
            response = make_response(view(fault, **path))
        except Problem as error:
            response = error.response()
        if kind == "lost_reply":
            return hang_up()
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        if fault and kind == "garbage":
            return Response(fault.body, 200, content_type="application/json")
        return response


def hang_up() -> Response:
    request.environ[HANG_UP]()
    return Response(status=502)


def face(name: str, config: Callable[[], Config], authorization: Callable[[Config], str]) -> Blueprint:
    """A blueprint for the endpoint's own id and for calls with this `Authorization`."""
    api = Blueprint(name, __name__, url_prefix="/v2/<endpoint>")

    @api.url_value_preprocessor
    def of_the_endpoint(endpoint: str | None, values: dict[str, Any] | None) -> None:
        if values and values.pop("endpoint") != config().endpoint_id:
            raise Problem(404, "endpoint not found")

    @api.before_request
    def authorize() -> None:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), authorization(config()).encode()):
            raise Problem(401, "unauthorized")

    @api.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return error.response()

    return api
