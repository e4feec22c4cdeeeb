"""A process beside the serving one. gunicorn's master supervises both, and restarts each when it has died."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import Protocol

from gunicorn.workers.base import Worker

PAUSE_S = 1.0
# How long it may take to stop, besides gunicorn's `graceful_timeout`.
GRACE_S = 1


class Companion(Protocol):
    """What the process does."""

    def run(self) -> None:
        """Run until `request_stop` was called, which may be before; then finish what is in progress."""

    def request_stop(self) -> None:
        """Let `run` return soon. Called by another thread."""


class CompanionProcess(Worker):  # type: ignore[misc]
    """Runs the companion of the application. It serves no requests, and ends when its master was killed."""

    wsgi = None
    sockets: list[socket.socket]

    def init_process(self) -> None:
        for listener in self.sockets:
            listener.close()  # otherwise the address would be in use for as long as this process runs
        self.sockets = []
        super().init_process()

    def load_wsgi(self) -> None:
        self._companion: Companion = self.app.make_companion()

    def run(self) -> None:
        threading.Thread(target=self._watch, name="companion-watch", daemon=True).start()
        self._companion.run()

    def _watch(self) -> None:
        while os.getppid() == self.ppid and signal.SIGTERM not in self._signals():
            self.notify()
        signal.alarm(self.cfg.graceful_timeout + GRACE_S)  # a master that was killed cannot kill this process
        self._companion.request_stop()

    def _signals(self) -> bytes:
        """The numbers of signals that have arrived, or arrive within PAUSE_S."""
        ready, _, _ = select.select([self.PIPE[0]], [], [], PAUSE_S)
        return os.read(self.PIPE[0], 4096) if ready else b""
