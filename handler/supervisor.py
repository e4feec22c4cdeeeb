"""`python -m handler.supervisor`: keeps the HTTP worker of a rented instance alive, and holds the dead-man switch.

The instance goes when no call from the gateway was let in for WORKER_SILENCE_SECONDS, or when WORKER_LIFETIME_SECONDS
have passed since its first start. Then the worker is killed and Vast.ai is asked to destroy the instance, again and
again for ever: an answer is no proof, and a container that exits may be started again and billed on. Only SIGTERM, the
host's own stop, ends this process.

It must outlive whatever the worker does. So it needs nothing but the standard library and requests, does nothing of
the worker's work, and no setting, however wrong, and no full disk ends it.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from ffmpeg_ops.engine import sandbox

log = logging.getLogger("handler.supervisor")

TICK_S = 0.25
STOP_S = 7.0  # `docker stop` kills after ten
CALL_S = 60.0  # a whole call, from the look-up of the name to the answer
RETRY_S = 5.0  # Vast.ai wants at least three
MOST_RETRIES = 12  # the longest pause, in RETRY_S
RESTART_S, MOST_RESTART_S, STEADY_S = 1.0, 30.0, 60.0


def boot_seconds() -> float:
    """Seconds since the machine booted: no setting of the clock moves them, and sleep counts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Config:
    """See `handler/settings.py`. `state` is the file of the deadline."""

    silence_s: float
    lifetime_s: float
    state: Path
    base: str
    container_id: str
    container_key: str
    retry_s: float = RETRY_S

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Config:
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
    log.error("%s makes no sense; %s is taken", name, default)
    return default


class Deadline:
    """When the instance has to go, whatever it does: told by both clocks, and whichever comes first counts.

    It is written down at the first start, so that a restart cannot extend it, and again and again where the disk does
    not take it. What is written there and makes no sense is over: nobody knows how long this has been going on.
    """

    def __init__(self, path: Path, lifetime_s: float, wall: Callable[[], float], boot: Callable[[], float]) -> None:
        self._path, self._wall, self._boot = path, wall, boot
        wall_now, boot_now = wall(), boot()
        self._at = {"wall": wall_now + lifetime_s, "boot": boot_now + lifetime_s}
        self._trouble: str | None = None
        try:
            before = json.loads(path.read_text())
            self._at = {clock: min(own, float(before[clock])) for clock, own in self._at.items()}
            self._written = True
        except OSError:
            self._written = False
        except (ValueError, TypeError, LookupError, RecursionError):
            log.error("what is written of the deadline makes no sense: it counts as over")
            self.bring_forward()
        self.write()

    def over(self) -> bool:
        return self._wall() >= self._at["wall"] or self._boot() >= self._at["boot"]

    def bring_forward(self) -> None:
        """It is over from now on, after a restart too."""
        self._at, self._written = {"wall": self._wall(), "boot": self._boot()}, False
        self.write()

    def write(self) -> None:
        """Unless that is done already."""
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
            self._written, self._trouble = True, None
        except OSError as error:
            if str(error) != self._trouble:  # it is tried four times a second
                log.error("the deadline cannot be written yet: %s", error)
            self._trouble = str(error)


class Switch:
    """Says when nobody looks after this instance any more. `heartbeat` tells that somebody does."""

    def __init__(
        self,
        config: Config,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = boot_seconds,
    ) -> None:
        self._deadline = Deadline(config.state, config.lifetime_s, wall, boot)
        self._silence_s, self._boot = config.silence_s, boot
        self._heard_at = boot()

    def heartbeat(self) -> None:
        self._heard_at = self._boot()

    def reason(self) -> str | None:
        """Why the instance has to go; None while it may stay."""
        self._deadline.write()
        if self._deadline.over():
            return "its lifetime is over"
        if self._boot() - self._heard_at >= self._silence_s:
            self._deadline.bring_forward()
            return f"the gateway has been silent for {self._silence_s:g} s"
        return None


class Worker:
    """The HTTP worker as a child in a process group of its own, started again whenever it ends."""

    def __init__(self, heartbeat_fd: int) -> None:
        self._fd = heartbeat_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._start_at = -math.inf
        self._pause_s = RESTART_S

    def keep_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            log.warning("the worker has ended with status %s", self._process.returncode)
            self.kill()
            lasted = boot_seconds() - self._started_at
            self._pause_s = RESTART_S if lasted > STEADY_S else min(2 * self._pause_s, MOST_RESTART_S)
            self._start_at = boot_seconds() + self._pause_s
        if self._process is None and boot_seconds() >= self._start_at:
            self._start()

    def _start(self) -> None:
        # The key of this container is not for a process that handles strangers' files.
        environ = {name: value for name, value in os.environ.items() if name != "CONTAINER_API_KEY"}
        command = [sys.executable, "-m", "handler.http_worker", "--heartbeat-fd", str(self._fd)]
        self._started_at = boot_seconds()
        try:
            self._process = subprocess.Popen(command, env=environ, pass_fds=[self._fd], start_new_session=True)
        except OSError as error:  # no memory, no process left
            log.error("the worker cannot be started: %s", error)
            self._start_at = boot_seconds() + MOST_RESTART_S

    def stop(self) -> None:
        """As `docker stop` asks: in time if it can be, and nothing is left."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """The worker and all that it has started; FFmpeg, in a group of its own, dies with its parent."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is left to the host
            self._process.wait(STOP_S)
        self._process = None


class Supervisor:
    """One thread, one loop: hear heartbeats, keep the worker alive, look at the switch."""

    def __init__(self, config: Config) -> None:
        self._switch = Switch(config)
        self._heard, beat = os.pipe()
        for end in (self._heard, beat):
            os.set_blocking(end, False)
        self._worker = Worker(beat)
        self._stopping = False

    def run(self) -> str | None:
        """Why the instance has to go, or None when the host stops it. The worker is dead then."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        try:
            while not self._stopping:
                if (reason := self._switch.reason()) is not None:
                    return reason
                self._worker.keep_alive()
                self._listen()
        finally:
            self._end()
        return None

    def _listen(self) -> None:
        ready, _, _ = select.select([self._heard], [], [], TICK_S)
        if ready and os.read(self._heard, 65_536):
            self._switch.heartbeat()

    def _end(self) -> None:
        if self._stopping:
            self._worker.stop()
        self._worker.kill()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True


def destroy(config: Config) -> None:
    """Have this instance destroyed. Never returns: only the end of the machine proves it."""
    pause_s, longest_s = config.retry_s, MOST_RETRIES * config.retry_s
    while True:
        try:
            with _within(CALL_S):
                told = _call(config)
        except Exception as error:  # whatever it is, the machine has to go
            log.error("the instance cannot be destroyed yet: %s", type(error).__name__)
        else:
            log.warning("asked to destroy this instance, Vast.ai answered %s", told)
            if 200 <= told < 300:
                pause_s = longest_s
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)


def _call(config: Config) -> int:
    """The status that is answered to the one call that this container's key is good for."""
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
def _within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError when what is inside lasts longer. The time-outs of requests count from byte to byte."""

    def expired(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one that is just under way comes too late to be raised


def main() -> None:
    sandbox.hide()  # the key in our environment ends this machine
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger().handlers[0].setFormatter(_Line())
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    config = Config.of(os.environ)
    try:
        reason = Supervisor(config).run()
    except Exception:  # a fault of our own: nobody is looked after by what does not run
        log.exception("the supervisor has failed")
        reason = "the supervisor has failed"
    if reason is None:
        log.info("stopped by the host")
        return
    log.warning("this instance goes: %s", reason)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # also where this is process 1, which no signal ends by itself
    destroy(config)


class _Line(logging.Formatter):
    """One JSON object a line, like those of the worker."""

    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line: dict[str, Any] = {"event": record.getMessage(), "level": record.levelname.lower()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, "logger": record.name, "timestamp": now})


if __name__ == "__main__":
    main()
