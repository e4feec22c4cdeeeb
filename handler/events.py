"""Reports the events of an attempt to the gateway: the claim, progress every second, the end."""

from __future__ import annotations

import contextvars
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests
import structlog

from ffmpeg_ops.operation import StopSignal
from handler import http_client
from wire.envelope import SILENCE_S, Delivery, Event, EventSchema
from wire.errors import GatewayUnreachable, JobError, Superseded, WorkerLost

log = structlog.get_logger(__name__)

PERIOD_S = 1.0
FINAL_TRIES_S = 300.0
TIMEOUT_S = (5, 10)


class Reporter:
    """Reports an attempt while it runs. This class reports nothing, for attempts without `delivery.events`."""

    #: 0 to 1; set by the attempt, read by the reporter.
    progress = 0.0

    def claim(self) -> None:
        """Claim the attempt. Raises Superseded when another worker holds it or it has ended, or GatewayUnreachable."""

    def encoding(self) -> None:
        """Mark the start of the expensive work. From now on the attempt goes on when the gateway does not respond."""

    def completed(self, result: Mapping[str, Any]) -> None:
        """Report the result, a ResultSchema document. Raises Superseded or GatewayUnreachable."""

    def failed(self, error: JobError) -> None:
        """Report the failure. Raises Superseded or GatewayUnreachable."""

    def close(self) -> None:
        """Stop reporting without waiting for a pending report."""


class Events(Reporter):
    """Reports over HTTP. A 409 for progress sets `stop`, because this worker no longer owns the attempt."""

    def __init__(self, delivery: Delivery, stop: StopSignal) -> None:
        assert delivery.events is not None
        self._target = delivery.events
        self._http = http_client.session()
        self._claim_id = f"claim_{secrets.token_hex(16)}"
        self._stop = stop
        self._encoding = False
        self._closed = threading.Event()
        self._answered_at = time.monotonic()
        self._thread: threading.Thread | None = None

    def claim(self) -> None:
        self._send_until_accepted(Event("started", self._claim_id), SILENCE_S, self._stop.wait)
        context = contextvars.copy_context()  # so that log lines contain the ids
        self._thread = threading.Thread(target=context.run, args=(self._beat,), daemon=True)
        self._thread.start()

    def encoding(self) -> None:
        self._encoding = True

    def completed(self, result: Mapping[str, Any]) -> None:
        self._end()
        event = Event("completed", self._claim_id, progress=1.0, result=result)
        self._send_until_accepted(event, FINAL_TRIES_S, self._stop.wait)

    def failed(self, error: JobError) -> None:
        self._end()
        # One try only, during a shutdown or when the gateway has not been responding. `stop` does not interrupt it,
        # because this failure may have set it.
        seconds = 0.0 if isinstance(error, GatewayUnreachable | WorkerLost) else FINAL_TRIES_S
        self._send_until_accepted(Event("failed", self._claim_id, error=error), seconds, time.sleep)

    def close(self) -> None:
        self._closed.set()
        self._http.close()

    def _end(self) -> None:
        """Stop reporting progress, which must not arrive after the end."""
        self.close()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._closed.wait(PERIOD_S):
            try:
                self._send(Event("progress", self._claim_id, progress=round(self.progress, 4)))
            except JobError as error:
                silent = time.monotonic() - self._answered_at > SILENCE_S
                if isinstance(error, Superseded) or (silent and not self._encoding):
                    self._stop.set(error)
                    return

    def _send_until_accepted(self, event: Event, seconds: float, pause: Callable[[float], None]) -> None:
        """Send, with retries for `seconds`, until the gateway accepts. Raises Superseded or GatewayUnreachable."""
        ends_at = time.monotonic() + seconds
        while True:
            try:
                return self._send(event)
            except GatewayUnreachable:
                if time.monotonic() > ends_at:
                    raise
            pause(PERIOD_S)

    def _send(self, event: Event) -> None:
        headers = {"Authorization": f"Bearer {self._target.token}"}
        try:
            response = self._http.post(
                self._target.url, json=dump(event), headers=headers, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:
            raise GatewayUnreachable(detail=http_client.error_classes(error)) from error
        if response.status_code == 409:
            raise Superseded
        if response.status_code >= 300:
            log.warning("event.refused", type=event.type, status=response.status_code, body=response.text[:300])
            raise GatewayUnreachable(detail=f"status {response.status_code}")
        self._answered_at = time.monotonic()


def dump(event: Event) -> dict[str, Any]:
    """The event as JSON, without empty fields."""
    raw = EventSchema(exclude=("error",)).dump(event)
    raw["error"] = event.error.to_wire() if event.error else None
    return {key: value for key, value in raw.items() if value is not None}
