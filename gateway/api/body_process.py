"""Has large bodies checked by another process: Python code cannot be interrupted and delays all other threads."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from gateway.access.rotation import Rotation
from gateway.api.body_child import BODY_S, receive, send
from gateway.api.job_request import REFUSALS, JobRequest
from gateway.errors import BodyTimeout, RequestError, ServiceUnavailable, ValidationFailed

log = structlog.get_logger(__name__)

# Bytes; a body up to this size is checked in some milliseconds, where it arrives.
LARGE_BODY = 65_536
_TRIES = 2


class BodyProcess:
    """One process, which is started anew when it has died. Bodies of different keys are checked in rotation."""

    def __init__(self) -> None:
        self._turns = Rotation()
        self._child: _Child | None = None

    def start(self) -> None:
        """Start the process, so that the first body does not wait for it."""
        self._child = self._child or _Child()

    def stop(self) -> None:
        """Kill the process."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def read(self, operation: str, data: bytes, key_id: str, *, defaults: bool = False) -> JobRequest:
        """As `job_request.read`, for a body of this key. Also raises BodyTimeout, and ServiceUnavailable."""
        with self._turns.turn(key_id):
            for _ in range(_TRIES):
                try:
                    return self._read(operation, data, defaults)
                except TimeoutError as error:
                    self.stop()
                    log.warning("body.timed_out", key_id=key_id, size_bytes=len(data))
                    raise BodyTimeout from error
                except (OSError, EOFError) as error:
                    self.stop()
                    log.warning("body_process.died", key_id=key_id, size_bytes=len(data), reason=repr(error))
            raise ServiceUnavailable

    def _read(self, operation: str, data: bytes, defaults: bool) -> JobRequest:
        self.start()
        assert self._child is not None
        facts, params = self._child.call({"operation": operation, "defaults": defaults}, data)
        if bug := facts.get("bug"):
            raise RuntimeError(bug)
        if "refusal" in facts:
            raise _refusal(**facts)
        return JobRequest(params=params.decode(), **facts)


def _refusal(refusal: str, message: str, errors: dict[str, list[str]] | None) -> RequestError:
    return REFUSALS[refusal](message) if errors is None else ValidationFailed(message, errors=errors)


class _Child:
    """A running process of `gateway.api.body_child`."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            program = "from gateway.api import body_child; body_child.main()"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program, str(theirs.fileno())],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # not a session: a priority may count within its session only
                env=_environment(),
            )

    def call(self, facts: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a message and return the response. Raises OSError, EOFError, and TimeoutError after BODY_S."""
        self._connection.settimeout(BODY_S)
        send(self._connection, facts, data)
        return receive(self._connection)

    def kill(self) -> None:
        """Kill the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()


def _environment() -> dict[str, str]:
    """Nothing of the gateway's but where its code is."""
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "PYTHONPATH": paths}
