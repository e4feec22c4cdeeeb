"""`python -m handler.supervisor`: keeps the HTTP worker of a rented machine running, and holds its dead-man switch.

The machine is destroyed after WORKER_SILENCE_SECONDS without an authorized call from the gateway, or
WORKER_LIFETIME_SECONDS after its first start. The supervisor then kills the worker and calls Vast.ai to destroy the
machine. It repeats the call until the machine ends, because an accepted call proves nothing, and a container that exits
may be restarted and billed. Only SIGTERM from the host ends this process.

It must survive whatever the worker does. It therefore uses only the standard library and requests, handles no job data,
and starts with any settings, however wrong, and on a full disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from ffmpeg_ops.engine import sandbox
from handler.dead_man_switch import Switch, boot_seconds

log = logging.getLogger("handler.supervisor")

TICK_S = 0.25
STOP_S = 7.0  # `docker stop` kills after ten
CALL_S = 60.0  # for a whole call, name look-up included
RETRY_S = 5.0  # Vast.ai asks for at least three
MAX_RETRY_FACTOR = 12  # the longest pause, in RETRY_S
# Pauses before a restart of the worker, which start over once it has run for STEADY_S.
RESTART_S, MAX_RESTART_S, STEADY_S = 1.0, 30.0, 60.0


@dataclass(frozen=True)
class Config:
    """The supervisor's settings, described in `handler/settings.py`."""

    #: maximum time without a heartbeat; then the machine is destroyed
    silence_s: float
    #: time after its first start at which the machine is destroyed
    lifetime_s: float
    #: the file of the deadline
    state: Path
    #: base URL of the API that destroys the machine
    base: str
    #: the machine's id there
    container_id: str
    #: the key that destroys this machine and nothing else
    container_key: str
    #: the first pause between two calls to that API
    retry_s: float = RETRY_S

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Config:
        """Read the settings; a wrong one is logged and replaced by its default."""
        return cls(
            _seconds(environ, "WORKER_SILENCE_SECONDS", 420),
            _seconds(environ, "WORKER_LIFETIME_SECONDS", 86_400),
            Path(environ.get("WORKER_STATE_DIR") or "/tmp/reelay-state") / "deadline.json",  # noqa: S108
            (environ.get("SELF_DESTROY_BASE") or "https://console.vast.ai").rstrip("/"),
            environ.get("CONTAINER_ID", ""),
            environ.get("CONTAINER_API_KEY", ""),
            _seconds(environ, "SELF_DESTROY_RETRY_SECONDS", RETRY_S),
        )


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(environ.get(name) or default)
    except ValueError:
        value = math.nan
    if 0 < value < math.inf:
        return value
    log.error("setting.replaced", {"name": name, "default": default})
    return default


class Worker:
    """The HTTP worker as a child process with a process group of its own, restarted whenever it ends."""

    def __init__(self, heartbeat_fd: int) -> None:
        self._fd = heartbeat_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._start_at = -math.inf
        self._pause_s = RESTART_S

    def keep_alive(self) -> None:
        """Start the worker if it does not run and its pause is over."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("worker.ended", {"status": self._process.returncode})
            self.kill()
            lasted_s = boot_seconds() - self._started_at
            self._pause_s = RESTART_S if lasted_s > STEADY_S else min(2 * self._pause_s, MAX_RESTART_S)
            self._start_at = boot_seconds() + self._pause_s
        if self._process is None and boot_seconds() >= self._start_at:
            self._start()

    def _start(self) -> None:
        # The worker handles untrusted files, so it does not get this container's key.
        environ = {name: value for name, value in os.environ.items() if name != "CONTAINER_API_KEY"}
        command = [sys.executable, "-m", "handler.http_worker", "--heartbeat-fd", str(self._fd)]
        self._started_at = boot_seconds()
        try:
            self._process = subprocess.Popen(command, env=environ, pass_fds=[self._fd], start_new_session=True)
        except OSError as error:  # out of memory or processes
            log.error("worker.start_failed", {"error": str(error)})
            self._start_at = boot_seconds() + MAX_RESTART_S

    def stop(self) -> None:
        """Terminate the worker, which ends its attempts, and kill it after STOP_S."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """Kill the worker's process group. FFmpeg, which has its own, dies with its parent."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang in the kernel
            self._process.wait(STOP_S)
        self._process = None


class Supervisor:
    """One loop on one thread: keep the worker alive, read its heartbeats, check the switch."""

    def __init__(self, config: Config) -> None:
        self._switch = Switch(config.state, config.silence_s, config.lifetime_s)
        self._heartbeats, worker_end = os.pipe()
        for end in (self._heartbeats, worker_end):
            os.set_blocking(end, False)
        self._worker = Worker(worker_end)
        self._stopping = False

    def run(self) -> str | None:
        """Return why the machine must be destroyed, or None when the host stops it. The worker is dead by then."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self._stopping:
                if (reason := self._switch.reason()) is not None:
                    return reason
                self._worker.keep_alive()
                self._listen()
            self._worker.stop()
            return None
        finally:
            self._worker.kill()

    def _listen(self) -> None:
        ready, _, _ = select.select([self._heartbeats], [], [], TICK_S)
        if ready and os.read(self._heartbeats, 65_536):
            self._switch.heartbeat()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True


def destroy(config: Config) -> None:
    """Request the destruction of this machine, again and again. Never returns: the process ends with the machine."""
    pause_s, max_pause_s = config.retry_s, MAX_RETRY_FACTOR * config.retry_s
    while True:
        try:
            with _time_limit(CALL_S):
                status = _call(config)
        except Exception as error:  # keep trying, whatever went wrong
            log.error("destroy.failed", {"error": type(error).__name__})
        else:
            log.warning("destroy.requested", {"status": status})
            if 200 <= status < 300:
                pause_s = max_pause_s
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, max_pause_s)


def _call(config: Config) -> int:
    """Make the one call that this container's key allows; return its status."""
    with requests.Session() as http:
        http.trust_env = False
        with http.delete(
            f"{config.base}/api/v0/instances/{quote(config.container_id, safe='')}/",
            headers={"Authorization": f"Bearer {config.container_key}"},
            timeout=(10, 20),
            allow_redirects=False,
            stream=True,
        ) as response:
            return response.status_code


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer: the time-outs of requests restart with every byte."""

    def expired(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # a pending alarm must not be raised after the block


def main() -> None:
    sandbox.hide()  # the environment holds the key that destroys the machine
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logging.getLogger().handlers[0].setFormatter(_JsonFormatter())
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    config = Config.of(os.environ)
    try:
        reason = Supervisor(config).run()
    except Exception:  # without its supervisor the machine would never be destroyed
        log.exception("supervisor.failed")
        reason = "the supervisor has failed"
    if reason is None:
        log.info("supervisor.stopped")
        return
    log.warning("machine.given_up", {"reason": reason})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # process 1 ignores signals without a handler
    destroy(config)


class _JsonFormatter(logging.Formatter):
    """Formats lines like the worker's. `log.info("event", {…})` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"event": record.getMessage(), "level": record.levelname.lower()}
        if isinstance(record.args, dict):
            line |= record.args
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return json.dumps({**line, "logger": record.name, "timestamp": now})


if __name__ == "__main__":
    main()
