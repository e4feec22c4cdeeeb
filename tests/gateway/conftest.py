"""Fixtures for the gateway: a real database, a clock that stands still, a scripted provider."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gateway import create_app, storage
from gateway.api import job_request
from gateway.db.migrations import migrate
from gateway.db.records import ApiKey
from gateway.db.store import Store
from gateway.domain import ids
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.outputs import Output
from gateway.domain.prices import Price
from gateway.providers.base import Accepted, JobInput, NotYet, Phase, Provider, Remote
from gateway.settings import Settings
from gateway.wiring import Services
from tests.gateway.connections import holders, no_thread_takes_two_connections  # noqa: F401
from tests.outputs import video_key
from tests.postgres import Postgres, postgres_server
from wire.envelope import Event

START_MS = 1_700_000_000_000
SECRET_KEY = "tests-secret-key-0123456789abcdef"
CLAIM = "claim-of-worker-1"
BODY = b"a finished video"
RESULT = {
    "outputs": {"video": {"size_bytes": len(BODY)}},
    "stats": {"size_bytes": len(BODY), "duration_s": 2.0},
}
PARAMS = {"url_video": "https://example.com/v.mp4", "url_srt": "https://example.com/s.srt"}
PARAMS_TEXT = json.dumps(PARAMS)
REQUEST = job_request.read("caption", PARAMS_TEXT.encode())

# Makes processes from one that has no threads and has imported what they need.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


class FixedClock:
    """Stands still until `advance`."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now = now_ms

    def now_ms(self) -> int:
        return self._now

    def advance(self, ms: int) -> int:
        self._now += ms
        return self._now


class FakeProvider:
    """Returns what its script says: `script("submit", NoCapacity("full"), Accepted("r1"))`, then its defaults.

    An answer is a value, an exception to raise, or a function that is called with the attempt and gives one of these.
    `calls` records (method, attempt), `inputs` the job inputs that were submitted.
    """

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.queue_limit_s: int | None = None
        self.calls: list[tuple[str, Attempt]] = []
        self.inputs: list[Mapping[str, Any]] = []
        self.reconciled = 0
        self.default: dict[str, Any] = {
            "submit": lambda attempt: Accepted(f"remote-{attempt.id}"),
            "poll": Remote(Phase.WAITING),
            "cancel": None,
            "reconcile": None,
            "check": None,
            "price": None,
            "workers": {},
        }
        self._script: dict[str, deque[Any]] = {method: deque() for method in self.default}
        self._lock = threading.Lock()

    def script(self, method: str, *answers: Any) -> FakeProvider:
        self._script[method].extend(answers)
        return self

    def called(self, method: str) -> list[Attempt]:
        """The attempts that `method` was called with, in this order."""
        return [attempt for name, attempt in self.calls if name == method]

    def submit(self, attempt: Attempt, job_input: JobInput) -> Accepted | NotYet:
        self.inputs.append(json.loads(job_input.text))
        return self._answer("submit", attempt)

    def poll(self, attempt: Attempt) -> Remote:
        return self._answer("poll", attempt)

    def cancel(self, attempt: Attempt) -> None:
        self._answer("cancel", attempt)

    def reconcile(self) -> None:
        self.reconciled += 1
        self._answer("reconcile", None)

    def check(self) -> None:
        self._answer("check", None)

    def workers(self) -> Mapping[str, int]:
        return self._answer("workers", None)

    def price(self, attempt: Attempt, gpu: str | None) -> Price | None:
        return self._answer("price", attempt)

    def _answer(self, method: str, attempt: Attempt | None) -> Any:
        with self._lock:
            if attempt is not None:
                self.calls.append((method, attempt))
            script = self._script[method]
            answer = script.popleft() if script else self.default[method]
        if callable(answer):
            answer = answer(attempt)
        if isinstance(answer, Exception):
            raise answer
        return answer


JobFactory = Callable[..., Job]
Wire = Callable[..., "Gateway"]


@dataclass(frozen=True)
class Key:
    """A client's key with its secret."""

    record: ApiKey
    secret: str


def new_job(now: int, **changes: Any) -> Job:
    """A queued, due job; `changes` override any field."""
    job = Job(
        id=ids.new("job", now),
        key_id=ids.new("key", now),
        operation="caption",
        status=JobStatus.QUEUED,
        created_at=now,
        queued_at=now,
        timeout_s=600,
        queue_limit_s=3600,
        next_at=now,
        outputs={"video": Output("mp4")},
    )
    return replace(job, **changes)


def new_attempt(job: Job, now: int, state: AttemptState = AttemptState.INTENT, **changes: Any) -> Attempt:
    """An attempt of `job` with what belongs to `state`; `changes` override any field."""
    attempt = Attempt(
        id=ids.new("att", now),
        job_id=job.id,
        provider="fake",
        state=state,
        created_at=now,
        deadline=job.queue_deadline + job.timeout_s * 1000 + 120_000,
        sent_at=now,
    )
    if state in {AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.DONE}:
        attempt = replace(attempt, remote_id=f"remote-{attempt.id}")
    if state in {AttemptState.CLAIMED, AttemptState.DONE}:
        attempt = replace(attempt, claim_id=CLAIM, claimed_at=now, heard_at=now)
    if attempt.ended:
        attempt = replace(attempt, ended_at=now)
    return replace(attempt, **changes)


@dataclass(frozen=True)
class Gateway(Services):
    """A gateway whose dispatcher takes one round when a test asks for it."""

    @property
    def provider(self) -> FakeProvider:
        """The first provider."""
        return next(iter(self.providers.values()))  # type: ignore[return-value]

    def turn(self) -> int:
        """Take one round and all its steps. Returns the number of jobs that were due."""
        started = self.dispatcher.tick()
        self.dispatcher.settle()
        return started

    def until_due(self, job: Job) -> int:
        """Let the time pass until the job is due again. Returns that time in milliseconds."""
        pause = max(0, self.job(job).next_at - self.clock.now_ms())  # type: ignore[operator]
        self.clock.advance(pause)  # type: ignore[attr-defined]
        return pause

    def follow(self, job: Job, rounds: int) -> None:
        """Take `rounds` rounds, each when the job is due."""
        for _ in range(rounds):
            self.until_due(job)
            assert self.turn() == 1

    def job(self, job: Job) -> Job:
        """The job as it is stored now."""
        return self.store.job(job.id)  # type: ignore[return-value]

    def attempt(self, job: Job) -> Attempt:
        """The newest attempt of the job."""
        return self.store.attempts(job.id)[-1]

    def states(self, job: Job) -> list[AttemptState]:
        """The states of the job's attempts, the oldest first."""
        return [attempt.state for attempt in self.store.attempts(job.id)]

    def add_job(
        self, *, attempt: AttemptState | None = None, params: Mapping[str, Any] = PARAMS, **changes: Any
    ) -> Job:
        """Store a job, with an attempt in the state `attempt` if given; `changes` override any field of the job."""
        job = new_job(self.clock.now_ms(), **changes)
        record = new_attempt(job, self.clock.now_ms(), attempt) if attempt else None
        if record is not None and "attempt_id" not in changes:
            job = replace(job, attempt_id=record.id)
        with self.store.transaction() as tx:
            tx.add_job(job, json.dumps(params))
            if record is not None:
                tx.add_attempt(record)
        return job

    def report(self, attempt_id: str | None, type_: str, claim_id: str = CLAIM, **event: Any) -> None:
        """Report an event, as the worker does that has the attempt."""
        self.reports.take(attempt_id, Event(type_, claim_id, **event))  # type: ignore[arg-type]

    def put_output(self, attempt_id: str | None, body: bytes = BODY) -> None:
        """Store the video of an attempt, as a worker's upload does."""
        self.storage.write(video_key(self.store.attempt(attempt_id)), [body], len(body))  # type: ignore[arg-type]


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call `work(0)` … `work(count - 1)` on as many threads at the same moment. Returns what they return."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture(autouse=True, scope="session")
def small_reserve() -> Iterator[None]:
    """Keep little of the disk free: every test with a dispatcher would write 16 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "MAX_KEPT_BYTES", 100_000)
        yield


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy; migrating anew for every test is slow."""
    folder = tmp_path_factory.mktemp("migrated")
    migrate(Settings(providers=("local",), secret_key=(SECRET_KEY,), data_dir=folder))
    return folder / "reelay.db"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a migrated database to copy."""
    folder = tmp_path_factory.mktemp("migrated_postgres")
    with postgres.database() as url:
        migrate(Settings(providers=("local",), secret_key=(SECRET_KEY,), data_dir=folder, database_url=url))
        yield url.rpartition("/")[2]


# Marks tests that must pass on every database; others run on SQLite alone.
on_every_database = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a fresh, migrated database: of the kind that `on_every_database` asks for, else SQLite."""
    if getattr(request, "param", "sqlite") == "postgresql":
        template = request.getfixturevalue("migrated_postgres")
        with request.getfixturevalue("postgres").database(template) as url:
            yield url
        return
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(request.getfixturevalue("migrated"), folder / "reelay.db")
    yield f"sqlite:///{folder / 'reelay.db'}"


@pytest.fixture
def settings(tmp_path: Path, database: str) -> Settings:
    """Of a gateway with a fresh, migrated database."""
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    return Settings(
        providers=("local",),
        secret_key=(SECRET_KEY,),
        data_dir=folder,
        database_url=database,
        min_free_disk_percent=0,
        max_wait_seconds=90,
        failed_keys_per_address=0,  # tests send wrong keys without end
    )


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def wire(settings: Settings, clock: FixedClock, provider: FakeProvider) -> Iterator[Wire]:
    """Wires a gateway on the test's database, as another process of it would; `changes` are of the settings."""
    made: list[Gateway] = []

    def make(chain: Mapping[str, Provider] | None = None, **changes: Any) -> Gateway:
        chain = {provider.name: provider} if chain is None else chain
        made.append(Gateway.wire(replace(settings, **changes), clock=clock, provider=chain))
        return made[-1]

    yield make
    for services in made:
        services.dispatcher.close()
        services.body_process.stop()
        services.store._engine.dispose()


@pytest.fixture
def services(wire: Wire) -> Gateway:
    return wire()


@pytest.fixture
def store(services: Gateway) -> Store:
    return services.store


@pytest.fixture
def key(services: Gateway) -> Key:
    return Key(*services.keys.create("tests", ("jobs", "metrics")))


@pytest.fixture
def api_key(key: Key) -> str:
    """The secret of a client; the jobs of `job_factory` are this client's."""
    return key.secret


@pytest.fixture
def job_factory(services: Gateway, key: Key) -> JobFactory:
    """`Gateway.add_job` for jobs of the client with `api_key`."""

    return partial(services.add_job, key_id=key.record.id)


@pytest.fixture
def app(settings: Settings, services: Gateway) -> Flask:
    """The gateway's application, with the parts of `services` in it."""
    app = create_app(settings)
    app.extensions["reelay"] = services
    app.testing = True
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Sends no key of its own accord."""
    return app.test_client()
