"""`handler.supervisor` with real processes, and an API on loopback that destroys its machine."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from common.settings import read
from gateway.providers.base import JobInput, Unavailable
from gateway.providers.worker_client import Credentials, WorkerClient
from handler import runs, supervisor
from handler.settings import Settings
from handler.supervisor import Config
from scripts.stack import free_port
from tests.conftest import ROOT
from tests.handler.support import FOREVER_S, Gateway, Job, alive, children
from tests.servers import PATIENCE_S, STOP_S, FileServer, Reply, Request, eventually, file_server

TOKEN, KEY, CONTAINER_KEY = "t" * 64, "k" * 64, "key-of-this-container-alone"
ASKED = "/api/v0/instances/4711/"


@dataclass
class Vast:
    """The API that destroys machines. `replies` are its responses; the last one repeats."""

    server: FileServer
    replies: list[Reply] = field(default_factory=lambda: [Reply(200, b'{"success": true}')])
    at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.routes[ASKED] = self._destroy

    def _destroy(self, request: Request) -> Reply:
        assert (request.method, request.headers["Authorization"]) == ("DELETE", f"Bearer {CONTAINER_KEY}")
        self.at.append(time.monotonic())
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@dataclass
class Instance:
    """A container whose supervisor can be killed and started again."""

    folder: Path
    base: str
    port: int = field(default_factory=free_port)
    environ: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, **environ: object) -> Instance:
        self.environ |= {name: str(value) for name, value in environ.items()}
        full = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "WORK_DIR": str(self.folder / "work"),
            "WORKER_PORT": str(self.port),
            "WORKER_TLS": "true",
            "SESSION_TOKEN": TOKEN,
            "WORKER_API_KEY": KEY,
            "ALLOWED_IPS": "127.0.0.1",
            "CONTAINER_ID": "4711",
            "CONTAINER_API_KEY": CONTAINER_KEY,
            "SELF_DESTROY_BASE": self.base,
            "SELF_DESTROY_RETRY_SECONDS": "1",
            "WORKER_STATE_DIR": str(self.folder / "state"),
            **self.environ,
        }
        limit = self._no_space if "full" in self.environ else None
        with (self.folder / "log").open("ab") as log:
            stderr = subprocess.DEVNULL if limit else log
            command = [sys.executable, "-m", "handler.supervisor"]
            one = subprocess.Popen(command, cwd=self.folder, env=full, stderr=stderr, preexec_fn=limit)
        self.processes.append(one)
        return self

    @staticmethod
    def _no_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    @property
    def client(self) -> WorkerClient:
        return WorkerClient(f"https://127.0.0.1:{self.port}", [Credentials(TOKEN, KEY)], tls=True)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def up(self) -> bool:
        try:
            self.client.health()
        except Unavailable:
            return False
        return True

    def running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """Its child, the worker."""
        return children(self.process.pid)

    def hang(self) -> None:
        """Freeze the worker and its process group."""
        for worker in self.workers():
            os.killpg(worker, signal.SIGSTOP)

    def below(self) -> list[int]:
        """All its descendants."""
        found, new = [], [self.process.pid]
        while new:
            new = [child for parent in new for child in children(parent)]
            found += new
        return found


def gone(pids: list[int]) -> None:
    eventually(lambda: not any(map(alive, pids)), STOP_S)  # FFmpeg dies a moment after its parent


@pytest.fixture
def vast() -> Iterator[Vast]:
    with file_server() as server:
        yield Vast(server)


@pytest.fixture
def instance(tmp_path: Path, vast: Vast) -> Iterator[Instance]:
    instance = Instance(tmp_path, vast.server.origin)
    yield instance
    below = instance.below() if instance.processes else []
    for process in instance.processes:
        process.kill()
        process.wait()
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def over_already(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "state/deadline.json").write_text('{"wall": 1, "boot": 1}')


def responds(port: int, path: str, headers: dict[str, str]) -> bool:
    """Whether the worker responds to a call, also by a refusal."""
    try:
        answer = requests.get(f"https://127.0.0.1:{port}{path}", headers=headers, verify=False, timeout=5)
    except requests.RequestException:
        return False
    return answer.status_code in {200, 401}


# ---- the worker under it


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_proves_its_identity_again(instance: Instance, vast: Vast) -> None:
    instance.start()
    eventually(instance.up)
    client = instance.client
    client.health()
    (before,) = instance.workers()
    below = instance.below()
    os.kill(before, signal.SIGKILL)
    gone(below)
    eventually(instance.up)
    client.health()  # the client that had the other certificate
    assert instance.workers() != [before]
    assert vast.at == []


@pytest.mark.slow
def test_no_child_has_the_key_and_a_stop_leaves_no_process(
    instance: Instance, vast: Vast, img2vid: Job, gateway: Gateway, files: FileServer
) -> None:
    instance.start(FETCH_ALLOW_ORIGINS=f"{files.origin},{gateway.server.origin}")
    eventually(instance.up)
    text = json.dumps(img2vid(duration=60, frame_rate=60, delivery=gateway.delivery()))
    instance.client.submit(JobInput(text, "img2vid", 600))
    eventually(lambda: any(event.get("progress", 0) > 0.02 for event in gateway.events))
    below = instance.below()
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in below]
    assert "ffmpeg" in names and len(below) >= 3
    assert CONTAINER_KEY.encode() in Path(f"/proc/{instance.process.pid}/environ").read_bytes()
    for pid in below:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert CONTAINER_KEY.encode() not in environ and b"CONTAINER_API_KEY" not in environ
    instance.process.terminate()
    assert instance.process.wait(PATIENCE_S) == 0
    gone(below)
    assert gateway.events[-1]["error"]["code"] == "worker_lost"
    assert vast.at == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "stopped while the worker hangs"])
def test_no_end_of_the_supervisor_leaves_a_process(instance: Instance, end: str) -> None:
    instance.start()
    eventually(instance.up)
    below = instance.below()
    if end == "killed":
        instance.process.kill()
    else:
        instance.hang()
        instance.process.terminate()
        assert instance.process.wait(PATIENCE_S) == 0
    gone(below)


def test_a_stop_fits_into_the_ten_seconds_that_docker_gives() -> None:
    assert runs.SHUTDOWN_S < supervisor.STOP_S <= 10 - 2


# ---- silence


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_authorized_calls_keep_it_and_silence_destroys_it(instance: Instance, vast: Vast) -> None:
    silence_s = 12
    instance.start(WORKER_SILENCE_SECONDS=silence_s)
    eventually(instance.up)
    client, last, responses = instance.client, 0.0, 0
    kept_until = time.monotonic() + 1.2 * silence_s
    while last < kept_until:
        last = time.monotonic()
        client.health()
        time.sleep(0.5)
    assert vast.at == []
    below = instance.below()
    while not vast.at:
        assert time.monotonic() - last < 5 * silence_s
        for path, headers in (
            (f"/identity?nonce={'a' * 32}", {}),
            ("/health", {"X-Session-Token": TOKEN, "X-API-Key": "k" * 63}),
            ("/health", {"X-Session-Token": "x" * 64, "X-API-Key": KEY}),
        ):
            responses += responds(instance.port, path, headers)
        time.sleep(0.1)
    assert responses > 3
    assert vast.at[0] - last >= silence_s
    gone(below)
    assert instance.running() and instance.workers() == []


@pytest.mark.slow
def test_a_worker_that_hangs_is_silence_too(instance: Instance, vast: Vast) -> None:
    instance.start(WORKER_SILENCE_SECONDS=12)
    eventually(instance.up)
    below = instance.below()
    instance.hang()
    eventually(lambda: vast.at)
    gone(below)


# ---- lifetime


@pytest.mark.slow
def test_a_restart_does_not_bring_a_silent_machine_back(instance: Instance, vast: Vast) -> None:
    vast.replies = [Reply(500)]
    instance.start(WORKER_SILENCE_SECONDS=1)
    eventually(lambda: vast.at)
    instance.process.kill()
    instance.process.wait()
    vast.at.clear()
    instance.start(WORKER_SILENCE_SECONDS=420)
    eventually(lambda: vast.at)
    assert instance.workers() == [] and not instance.up()


@pytest.mark.slow
def test_a_full_disk_does_not_stop_it(instance: Instance, vast: Vast) -> None:
    instance.start(WORKER_LIFETIME_SECONDS=3, full="yes")
    eventually(lambda: vast.at)
    assert instance.running() and not (instance.folder / "state/deadline.json").exists()


@pytest.mark.slow
def test_a_worker_that_cannot_start_does_not_stop_it(instance: Instance, vast: Vast) -> None:
    instance.start(SESSION_TOKEN="", WORKER_SILENCE_SECONDS=4)
    eventually(lambda: vast.at)
    assert instance.running()
    assert (
        "SESSION_TOKEN" in instance.log and '"event": "worker.ended", "level": "warning", "status": 1' in instance.log
    )


# ---- destroying


@pytest.mark.slow
def test_it_asks_for_its_destruction_for_ever(instance: Instance, vast: Vast) -> None:
    over_already(instance.folder)
    troubles = [Reply(500), Reply(429), Reply(404), Reply(401), Reply(drop=True), Reply(302, headers={"Location": "/"})]
    vast.replies = [*troubles, Reply(200, b'{"success": true}')]
    instance.start(SELF_DESTROY_RETRY_SECONDS=0.05)
    eventually(lambda: len(vast.at) >= len(troubles) + 3)
    assert instance.running() and instance.workers() == []
    assert {request.path for request in vast.server.requests} == {ASKED}
    assert CONTAINER_KEY not in instance.log
    instance.process.terminate()
    assert instance.process.wait(PATIENCE_S) == 0


def test_pauses_grow_and_are_longest_after_a_reported_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    statuses, pauses = iter([500, 404, 401, 200, 500]), []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise InterruptedError

    monkeypatch.setattr(supervisor, "_call", lambda config: next(statuses))
    monkeypatch.setattr("handler.supervisor.time.sleep", sleep)
    with pytest.raises(InterruptedError):
        supervisor.destroy(Config(600, 3600, tmp_path / "deadline.json", "http://x", "1", "k", retry_s=1.0))
    assert pauses == [1, 2, 4, 12, 12]


def test_a_call_has_a_time_limit_however_slow_its_response_is() -> None:
    with pytest.raises(TimeoutError), supervisor._time_limit(0.1):
        time.sleep(FOREVER_S)
    with supervisor._time_limit(0.05):
        pass
    time.sleep(0.1)  # no alarm is left


# ---- settings


def test_defaults_are_the_documented_ones() -> None:
    config, documented = Config.of({}), read(Settings, {})
    assert config.silence_s == documented.worker_silence_seconds
    assert config.lifetime_s == documented.worker_lifetime_seconds
    assert config.state.parent == documented.worker_state_dir
    assert config.base == documented.self_destroy_base
    assert config.retry_s == documented.self_destroy_retry_seconds


@pytest.mark.parametrize("wrong", ["soon", "-1", "0", "nan", "inf", " ", "1e999"])
def test_no_setting_however_wrong_ends_it(wrong: str) -> None:
    names = ("WORKER_SILENCE_SECONDS", "WORKER_LIFETIME_SECONDS", "SELF_DESTROY_RETRY_SECONDS")
    assert Config.of(dict.fromkeys(names, wrong)) == Config.of({})


def test_it_imports_nothing_of_the_worker() -> None:
    code = "import sys, handler.supervisor; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(said.stdout.split())
    assert not loaded & {"flask", "gunicorn", "marshmallow", "structlog", "wire", "cryptography", "pyseccomp"}
    assert {name for name in loaded if name.startswith("ffmpeg_ops")} == {
        "ffmpeg_ops",
        "ffmpeg_ops.engine",
        *("ffmpeg_ops.engine.sandbox", "ffmpeg_ops.engine.landlock", "ffmpeg_ops.engine.system_calls"),
        "ffmpeg_ops.engine.gpu",
    }
