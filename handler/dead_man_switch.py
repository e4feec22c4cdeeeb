"""Decides when a rented machine must be destroyed: without a heartbeat for too long, or at the end of its lifetime.

Imports only the standard library; see `supervisor.py`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


def boot_seconds() -> float:
    """Seconds since the machine booted, including suspended time. Setting the clock does not affect them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Deadline:
    """The end of the machine's lifetime by two clocks, wall and boot: it is over as soon as one of them says so.

    Written to `path` at the first start, so that a restart does not extend it; a failed write is retried at every
    check. If the file is unreadable, the age of the machine is unknown, and its lifetime counts as over.
    """

    def __init__(self, path: Path, lifetime_s: float, wall: Callable[[], float], boot: Callable[[], float]) -> None:
        self._path, self._wall, self._boot = path, wall, boot
        self._at = {"wall": wall() + lifetime_s, "boot": boot() + lifetime_s}
        self._write_error: str | None = None
        try:
            before = json.loads(path.read_text())
            self._at = {clock: min(own, float(before[clock])) for clock, own in self._at.items()}
            self._written = True
        except OSError:
            self._written = False
        except (ValueError, TypeError, LookupError, RecursionError):
            log.error("deadline.read_failed")
            self.bring_forward()
        self.write()

    def over(self) -> bool:
        return self._wall() >= self._at["wall"] or self._boot() >= self._at["boot"]

    def bring_forward(self) -> None:
        """End the lifetime now. It stays over after a restart."""
        self._at, self._written = {"wall": self._wall(), "boot": self._boot()}, False
        self.write()

    def write(self) -> None:
        """Write the file unless it has been written."""
        if self._written:
            return
        draft = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with draft.open("w") as file:
                json.dump(self._at, file)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self._path)
            self._written, self._write_error = True, None
        except OSError as error:
            if str(error) != self._write_error:  # log each reason once, not four times a second
                log.error("deadline.write_failed", {"error": str(error)})
            self._write_error = str(error)


class Switch:
    """The dead-man switch: a deadline, and the time of the last heartbeat."""

    def __init__(
        self,
        state: Path,
        silence_s: float,
        lifetime_s: float,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = boot_seconds,
    ) -> None:
        self._deadline = Deadline(state, lifetime_s, wall, boot)
        self._silence_s, self._boot = silence_s, boot
        self._heard_at = boot()

    def heartbeat(self) -> None:
        """Record a call from the gateway."""
        self._heard_at = self._boot()

    def reason(self) -> str | None:
        """Why the machine must be destroyed; None while it may run."""
        self._deadline.write()
        if self._deadline.over():
            return "its lifetime is over"
        if self._boot() - self._heard_at >= self._silence_s:
            self._deadline.bring_forward()
            return f"the gateway has been silent for {self._silence_s:g} s"
        return None
