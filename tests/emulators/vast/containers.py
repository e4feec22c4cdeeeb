"""Containers of rented machines: the processes of a real worker, or a pretended worker in this process."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import requests

from common.settings import read
from ffmpeg_ops.operation import StopSignal
from handler import certificate
from handler.events import Events, Reporter
from handler.http_worker import create_app
from handler.runs import Run, Runs
from handler.settings import Settings
from handler.upload import upload
from scripts.stack import free_port
from tests.emulators.runpod.fleet import GUARD, ROOT
from tests.emulators.runpod.server import Server
from tests.emulators.vast.clock import Clock
from tests.emulators.vast.config import Config
from wire.envelope import JobInput, parse_job_input
from wire.errors import EncoderUnavailable, JobError, Stopped, Superseded
from wire.media_types import MP4

VIDEO = b"\0\0\0\x18ftypisom" + bytes(12)
RETRY_S = 5.0
TIMEOUT_S = 5.0
SILENCE_S, LIFETIME_S = 420.0, 86400.0
# Durations in a container that follow the clock.
IN_SECONDS = ("WORKER_SILENCE_SECONDS", "WORKER_LIFETIME_SECONDS", "SELF_DESTROY_RETRY_SECONDS")


# What FFmpeg says where NVENC refuses.
REFUSAL = "OpenEncodeSessionEx failed: unsupported device (2)"


@dataclass(frozen=True)
class Hardware:
    """What a pretended worker knows of its machine."""

    gpu: str
    #: Whether NVENC refuses: its jobs are encoded by the CPU, or fail where the GPU is required.
    refuses: bool
    #: Bills (bytes to the machine, bytes from it).
    transfer: Callable[[int, int], None]


class Container(Protocol):
    """A container of an instance."""

    #: where its worker listens once it has started
    port: int

    def start(self) -> None:
        """Start its processes."""

    def kill(self) -> None:
        """Kill everything that runs in it. Its disk stays."""

    @property
    def exited(self) -> bool:
        """Whether its process has ended."""

    def overdue(self) -> bool:
        """Whether `self_destroy` must be called now for its dead-man switch. False for a real worker, which does it itself."""

    def self_destroy(self) -> None:
        """Ask the API to destroy the instance, as its dead-man switch does."""


class Processes:
    """A real worker with its supervisor, as processes of this machine."""

    def __init__(self, env: Mapping[str, str], folder: Path, config: Config, clock: Clock) -> None:
        self.port = free_port()
        self._env, self._folder, self._config, self._clock = dict(env), folder, config, clock
        self._guard: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._guard = subprocess.Popen(GUARD, stdin=subprocess.PIPE, process_group=0)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._config.command,
                cwd=self._folder,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._guard.pid,
            )

    def _environ(self) -> dict[str, str]:
        env = {"SELF_DESTROY_RETRY_SECONDS": f"{RETRY_S:.0f}", **self._env}
        hurried = {name: self._hurried(env[name]) for name in IN_SECONDS if name in env}
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "PYTHONPATH": str(ROOT),
            "WORK_DIR": str(self._folder / "work"),
            "WORKER_STATE_DIR": str(self._folder / "state"),
            "OUTPUT_DIR": str(self._folder / "output"),
            **self._config.env,
            **self._env,
            **hurried,
            "WORKER_PORT": str(self.port),
        }

    def _hurried(self, seconds: str) -> str:
        speed = self._clock.speed
        return str(max(1, math.ceil(float(seconds) / speed))) if speed > 1 else seconds

    @property
    def exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    @property
    def group(self) -> int:
        """The id of its process group."""
        assert self._guard
        return self._guard.pid

    def overdue(self) -> bool:
        return False  # its supervisor takes care of it

    def self_destroy(self) -> None: ...

    def kill(self) -> None:
        if self._guard and self._process and self._guard.returncode is None:
            below = list(_descendants(self._process.pid))  # the supervisor gives its worker another group
            os.killpg(self._guard.pid, signal.SIGKILL)
            for one in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            for process in filter(None, (self._process, self._guard)):
                process.wait()
            if self._guard.stdin:
                self._guard.stdin.close()


def _descendants(process: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield int(child)
            yield from _descendants(int(child))


class Pretence:
    """The worker's HTTP API over attempts that take `job_s` and upload a few bytes.

    Its dead-man switch uses the stand-in's clock; a restart keeps its deadline, as if it were on the disk.
    """

    def __init__(
        self, env: Mapping[str, str], jobs: list[str], hardware: Hardware, config: Callable[[], Config], clock: Clock
    ) -> None:
        self._env, self._jobs, self._hardware, self._config, self._clock = env, jobs, hardware, config, clock
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._runs: _Pretended | None = None
        self._deadline = self._heard_at = self._retry_at = 0.0
        self._running = self._dying = False
        self.port = 0

    def start(self) -> None:
        now = self._clock.now()
        self._deadline = self._deadline or now + float(self._env.get("WORKER_LIFETIME_SECONDS", LIFETIME_S))
        self._heard_at, self._dying = now, False
        self._running = True  # its supervisor runs, whatever the worker does
        settings = read(Settings, self._env)
        if not (settings.session_token and settings.worker_api_key and settings.allowed_ips):
            return
        self._runs = _Pretended(settings, self._jobs, self._hardware, self._config, self._clock)
        shown = certificate.make() if settings.worker_tls else None
        fingerprint = shown.fingerprint if shown else None
        app = create_app(settings, self._runs, fingerprint=fingerprint, heartbeat=self._heard)
        self._server = _Server(("127.0.0.1", 0), app, shown.context if shown else None)
        self.port = self._server.server_address[1]
        self._server.start()

    def _heard(self) -> None:
        self._heard_at = self._clock.now()

    @property
    def exited(self) -> bool:
        return False

    def kill(self) -> None:
        self._running = False
        self._silence()

    def overdue(self) -> bool:
        now = self._clock.now()
        if not self._running or now < self._retry_at:
            return False
        silence_s = float(self._env.get("WORKER_SILENCE_SECONDS", SILENCE_S))
        if not self._dying and now - self._heard_at < silence_s and now < self._deadline:
            return False
        self._dying, self._retry_at = True, now + RETRY_S
        return True

    def self_destroy(self) -> None:
        self._silence()
        url = f"{self._env['SELF_DESTROY_BASE']}/api/v0/instances/{self._env['CONTAINER_ID']}/"
        headers = {"Authorization": f"Bearer {self._env['CONTAINER_API_KEY']}"}
        with contextlib.suppress(requests.RequestException):
            requests.delete(url, headers=headers, timeout=TIMEOUT_S)

    def active(self) -> int:
        """How many attempts are running."""
        return self._runs.active() if self._runs and self._server else 0

    def _silence(self) -> None:
        """Stop the worker, but not its dead-man switch."""
        with self._lock:
            server, self._server = self._server, None
        if server:
            assert self._runs
            self._runs.kill()
            server.stop()


class _Pretended(Runs):
    """Attempts that claim, wait, upload and report like those of a worker, but make no video."""

    def __init__(
        self, settings: Settings, jobs: list[str], hardware: Hardware, config: Callable[[], Config], clock: Clock
    ) -> None:
        super().__init__(settings)
        self._jobs, self._hardware, self._config, self._clock = jobs, hardware, config, clock

    def kill(self) -> None:
        for run in list(self._runs.values()):
            run.stop.set(Superseded())  # the one reason that is not reported

    def _work(self, run: Run, raw_input: object) -> None:
        self._jobs.append(run.attempt_id)
        try:
            run.result = self._pretend(parse_job_input(raw_input), run.stop)
            run.progress, run.status = 1.0, "completed"
        except JobError as error:
            run.error = error.to_wire()
            run.status = "cancelled" if isinstance(error, Stopped) else "failed"
        run.stop, run.thread = StopSignal(), None

    def _pretend(self, job_input: JobInput, stop: StopSignal) -> dict[str, Any]:
        delivery, job_s, fetched = job_input.delivery, self._config().job_s, self._config().fetched_bytes
        reporter = Events(delivery, stop) if delivery and delivery.events else Reporter()
        size = {"size_bytes": len(VIDEO)}
        stats = {**size, **self._encoder(), "fetched_bytes": fetched, "duration_s": 0.2, "processing_s": job_s}
        result = {"outputs": {"video": size}, "stats": stats}
        try:
            reporter.claim()
            self._hardware.transfer(fetched, 0)
            reporter.encoding()
            if self._hardware.refuses and delivery and delivery.gpu_encoder == "require":
                raise EncoderUnavailable(detail=REFUSAL)
            self._clock.wait(job_s, stop.check)
            if delivery and delivery.uploads:
                with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
                    file.write(VIDEO)
                    file.flush()
                    upload(Path(file.name), delivery.uploads["video"], MP4.mime, stop)
                self._hardware.transfer(0, len(VIDEO))
            reporter.completed(result)
        except JobError as error:
            if not isinstance(error, Stopped):
                with contextlib.suppress(JobError):
                    reporter.failed(error)
            raise
        finally:
            reporter.close()
        return result

    def _encoder(self) -> dict[str, Any]:
        """The part of the stats that says what encoded."""
        if self._hardware.refuses:
            return {"encoder": "libx264", "device": "cpu", "gpu": self._hardware.gpu, "gpu_failure": REFUSAL}
        return {"encoder": "h264_nvenc", "device": "gpu", "gpu": self._hardware.gpu}


class _Server(Server):
    """A server that uses HTTPS if it has a context."""

    def __init__(self, address: tuple[str, int], app: Callable[..., Any], context: ssl.SSLContext | None) -> None:
        super().__init__(address, app)
        self._context = context

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._context is None:
            return connection, address
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # the caller rejected the certificate, or is gone
            super().handle_error(request, client_address)
