"""Each provider with real HTTP servers on loopback; the test decides how their attempts go."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
from werkzeug.serving import BaseWSGIServer, make_server

from common.clock import Clock, SystemClock
from ffmpeg_ops.operation import StopSignal
from gateway.configuration import read_settings
from gateway.db.store import Store
from gateway.domain.attempts import Attempt
from gateway.providers.base import Accepted, Context, JobInput, NotYet, Provider
from gateway.providers.local.settings import LocalSettings
from gateway.providers.registry import PROVIDERS, make
from gateway.providers.runpod.provider import RunPodProvider
from gateway.providers.runpod.settings import RunPodSettings
from gateway.providers.worker_client import credentials_of
from gateway.settings import Settings
from gateway.signing import Signer
from handler.certificate import Certificate
from handler.http_worker import create_app
from handler.runs import Busy, Run, Runs
from handler.settings import Settings as WorkerSettings
from tests.emulators.runpod import Config, Emulator
from tests.emulators.runpod.jobs import Queue
from tests.gateway.conftest import PARAMS_TEXT, SECRET_KEY, new_attempt, new_job
from tests.servers import FileServer
from wire.errors import Cancelled, JobError

WORKER = "a-worker-of-the-test"


class StubRuns(Runs):
    """Keeps the attempts and runs nothing: the test says how each of them goes."""

    def submit(self, attempt_id: str, raw_input: object) -> Run:
        with self._lock:
            if attempt_id not in self._runs and self.active() >= self._settings.worker_concurrency:
                raise Busy
            return self._runs.setdefault(attempt_id, Run(attempt_id))


class There(Protocol):
    """An attempt at the provider, in the worker's hands."""

    def progress(self, fraction: float) -> None: ...

    def complete(self, result: Mapping[str, Any]) -> None: ...

    def fail(self, error: JobError) -> None: ...

    def told_to_stop(self) -> bool: ...


@dataclass(frozen=True)
class Stand:
    """A provider with whatever stands behind it. `there(attempt)` is an attempt that a worker has taken.

    `stop` takes everything down, `lock_out` changes the locks. `slots`: how many attempts it takes at once, None where
    it has a queue, which knows attempts by its own ids alone. `unknown` is the remote id of an attempt
    that it does not know.
    """

    provider: Provider
    there: Callable[[Attempt], There]
    stop: Callable[[], None]
    lock_out: Callable[[], None]
    slots: int | None
    unknown: str = "unknown"


def attempt_named(remote_id: str | None = "unknown") -> Attempt:
    now = SystemClock().now_ms()
    return replace(new_attempt(new_job(now), now, provider="fake"), sent_at=now, remote_id=remote_id)


@dataclass(frozen=True)
class OnWorker:
    """An attempt at an HTTP worker."""

    run: Run
    stop: StopSignal

    def progress(self, fraction: float) -> None:
        self.run.progress = fraction

    def complete(self, result: Mapping[str, Any]) -> None:
        self.run.result, self.run.status = dict(result), "completed"

    def fail(self, error: JobError) -> None:
        self.run.error, self.run.status = error.to_wire(), "cancelled" if isinstance(error, Cancelled) else "failed"

    def told_to_stop(self) -> bool:
        return isinstance(self.stop.reason, Cancelled)


@dataclass(frozen=True)
class InQueue:
    """An attempt in RunPod's queue, taken by a worker that only the test sees."""

    queue: Queue
    job_id: str

    def progress(self, fraction: float) -> None:
        self.queue.progress(WORKER, self.job_id, {"progress": fraction})

    def complete(self, result: Mapping[str, Any]) -> None:
        self.queue.done(WORKER, self.job_id, output=dict(result))

    def fail(self, error: JobError) -> None:
        self.queue.done(WORKER, self.job_id, error=json.dumps(error.to_wire()))

    def told_to_stop(self) -> bool:
        return self.queue.stops(WORKER, 0, lambda: True) == [self.job_id]


def job_input(attempt: Attempt, operation: str = "caption", **params: Any) -> JobInput:
    """A worker's input that is valid unless `params` say otherwise."""
    params = params or {"url_video": "http://example.com/v.mp4", "url_srt": "http://example.com/s.srt"}
    delivery = {
        "job_id": attempt.job_id,
        "attempt_id": attempt.id,
        "deadline": "2030-01-01T00:00:00Z",
        "limits": {"timeout_s": 600},
    }
    return JobInput(json.dumps({"operation": operation, **params, "delivery": delivery}), operation, 600)


def serve(
    settings: WorkerSettings, *, tls: Certificate | None = None, port: int = 0, heartbeat: Callable[[], object] = int
) -> tuple[BaseWSGIServer, StubRuns, Callable[[], None]]:
    runs = StubRuns(settings)
    app = create_app(settings, runs, fingerprint=tls and tls.fingerprint, heartbeat=heartbeat)
    server = make_server("127.0.0.1", port, app, threaded=True, ssl_context=tls and tls.context)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    def stop() -> None:
        if thread.is_alive():
            server.shutdown()
            thread.join()
            server.server_close()

    return server, runs, stop


@pytest.fixture
def local_stand(tmp_path: Path) -> Iterator[Stand]:
    signer = Signer((SECRET_KEY,))
    tokens = credentials_of(signer)[0].environ
    worker = WorkerSettings(
        session_token=tokens["SESSION_TOKEN"],
        worker_api_key=tokens["WORKER_API_KEY"],
        allowed_ips=("127.0.0.1",),
        work_dir=tmp_path / "work",
    )
    server, runs, stop = serve(worker)
    settings = Settings(providers=("local",)).with_parts(LocalSettings(f"http://127.0.0.1:{server.server_port}"))

    def there(attempt: Attempt) -> There:
        found = runs.get(attempt.id)
        assert found is not None
        return OnWorker(found, found.stop)

    yield Stand(
        make(Context(settings, signer, cast(Any, None), SystemClock()))["local"],
        there,
        stop,
        lambda: object.__setattr__(worker, "session_token", "x" * 64),
        slots=1,
    )
    stop()


@pytest.fixture
def runpod() -> Iterator[Emulator]:
    """An endpoint without workers of its own."""
    with Emulator(Config(max_workers=0, latency_ms=0)) as emulator:
        yield emulator


def runpod_settings(emulator: Emulator, own: Mapping[str, Any] = {}, **changes: Any) -> Settings:
    """`own` are changes of RunPod's settings, `changes` of the gateway's."""
    settings = read_settings({**emulator.gateway_environ, "PUBLIC_URL": "http://127.0.0.1:1"})
    return replace(settings, **changes).with_parts(replace(settings.of(RunPodSettings), **own))


def runpod_provider(
    emulator: Emulator, clock: Clock | None = None, own: Mapping[str, Any] = {}, **changes: Any
) -> RunPodProvider:
    return _provider(runpod_settings(emulator, own, **changes), clock)


def runpod_provider_at(files: FileServer) -> RunPodProvider:
    """Its job API is below `/v2/ep` of `files`, which sends what no emulator would."""
    return _provider(Settings(("runpod",)).with_parts(RunPodSettings(endpoint_id="ep", api_base=f"{files.origin}/v2")))


def _provider(settings: Settings, clock: Clock | None = None) -> RunPodProvider:
    context = Context(settings, Signer((SECRET_KEY,)), cast(Any, None), clock or SystemClock())
    return cast(RunPodProvider, make(context)["runpod"])


def taken(emulator: Emulator, attempt: Attempt) -> InQueue:
    """The attempt, once a worker has taken it from the queue."""
    assert attempt.remote_id is not None
    while emulator.job(attempt.remote_id)["status"] == "IN_QUEUE":
        assert emulator.queue.take(WORKER, 0, lambda: True)
    return InQueue(emulator.queue, attempt.remote_id)


@pytest.fixture
def runpod_stand(runpod: Emulator) -> Stand:
    return Stand(
        runpod_provider(runpod),
        lambda attempt: taken(runpod, attempt),
        runpod.stop,
        lambda: runpod.configure(api_key="another"),
        slots=None,
    )


class Kept:
    """Records every attempt before it is submitted, as the dispatcher does."""

    def __init__(self, provider: Provider, store: Store) -> None:
        self._provider, self._store = provider, store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def submit(self, attempt: Attempt, job_input: Mapping[str, Any]) -> Accepted | NotYet:
        if self._store.attempt(attempt.id) is None:
            job = replace(new_job(attempt.created_at), id=attempt.job_id, attempt_id=attempt.id)
            with self._store.transaction() as tx:
                tx.add_job(job, PARAMS_TEXT)
                tx.add_attempt(replace(attempt, provider=self.name, remote_id=None))
        return self._provider.submit(attempt, job_input)


@pytest.fixture
def vast_stand(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    from tests.gateway.providers.vast_scene import no_pauses, rented

    no_pauses(monkeypatch)
    with rented(tmp_path, database) as scene:
        rental = scene.ready()
        (machine,) = scene.vast.alive()
        runs = cast(Any, machine.container)._runs

        def there(attempt: Attempt) -> There:
            found = runs.get(attempt.id)
            assert found is not None
            return OnWorker(found, found.stop)

        def lock_out() -> None:
            scene.vast.configure(api_key="another")
            object.__setattr__(runs._settings, "session_token", "x" * 64)

        yield Stand(
            cast(Provider, Kept(scene.provider, scene.store)),
            there,
            scene.vast.stop,
            lock_out,
            slots=1,
            unknown=f"{rental.id}:unknown",
        )


@pytest.fixture(params=list(PROVIDERS))
def stand(request: pytest.FixtureRequest) -> Stand:
    """Every provider in turn; one without a fixture `<name>_stand` is an error."""
    return request.getfixturevalue(f"{request.param}_stand")  # type: ignore[no-any-return]
