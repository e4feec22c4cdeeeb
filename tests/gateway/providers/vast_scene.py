"""A gateway's pool against the stand-in for Vast.ai, both on the stand-in's clock, which only the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.db.engine import make_engine
from gateway.db.rental_store import Rentals
from gateway.db.store import Store
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.rentals import Rental, Stage
from gateway.providers.base import Accepted, Context, NotYet
from gateway.providers.clouds.vast import client
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.registry import make
from gateway.providers.rental.cloud import InconclusiveListing
from gateway.providers.rental.provider import RentalProvider
from gateway.settings import Settings
from gateway.signing import Signer
from tests.emulators.vast import Config, Emulator
from tests.gateway.conftest import PARAMS_TEXT, SECRET_KEY, new_attempt, new_job
from tests.gateway.providers.conftest import job_input

TICK_S = 5
RENTAL = "0195a3c2-7e11-7cc2-a5b2-3d1e0f6a9b10"


class EmulatedClock:
    """The stand-in's time."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def now_ms(self) -> int:
        return round(self._emulator.clock.now() * 1000)


@dataclass
class Scene:
    """`vast` and a gateway's `provider`; `another()` is one more gateway on the same database."""

    vast: Emulator
    settings: Settings
    store: Store
    clock: EmulatedClock
    provider: RentalProvider = field(init=False)

    def __post_init__(self) -> None:
        self.provider = self.another()
        self.rows = Rentals(self.store, "vast")

    def another(self, **changes: Any) -> RentalProvider:
        settings = self.settings.with_parts(replace(self.own, **changes))
        context = Context(settings, Signer((SECRET_KEY,)), self.store, self.clock)
        return cast(RentalProvider, make(context)["vast"])

    @property
    def own(self) -> VastSettings:
        return self.settings.of(VastSettings)

    def change(self, *, providers: tuple[str, ...] = ("vast",), **own: Any) -> None:
        """Go on with a gateway that has other settings."""
        self.settings = replace(self.settings, providers=providers).with_parts(replace(self.own, **own))
        self.provider = self.another()

    def wants(self, count: int = 1) -> list[Attempt]:
        """So many new jobs whose attempts wait for a machine."""
        now, made = self.clock.now_ms(), []
        with self.store.transaction() as tx:
            for _ in range(count):
                job = new_job(now)
                attempt = new_attempt(job, now, provider="vast", sent_at=None)
                tx.add_job(replace(job, attempt_id=attempt.id), PARAMS_TEXT)
                tx.add_attempt(attempt)
                made.append(attempt)
        return made

    def submit(self, attempt: Attempt, provider: RentalProvider | None = None) -> Accepted | NotYet:
        answer = (provider or self.provider).submit(attempt, job_input(attempt))
        if isinstance(answer, Accepted):
            self._save(attempt, state=AttemptState.SUBMITTED, remote_id=answer.remote_id)
        return answer

    def over(self, *attempts: Attempt) -> None:
        """They and their jobs have ended."""
        for attempt in attempts:
            self._save(attempt, state=AttemptState.DONE)
            with self.store.transaction() as tx:
                job = tx.job(attempt.job_id)
                assert job is not None
                tx.save_job(replace(job, next_at=None))

    def fresh(self, attempt: Attempt) -> Attempt:
        found = self.store.attempt(attempt.id)
        assert found is not None
        return found

    def go_on(self, seconds: float, provider: RentalProvider | None = None, every_s: float | None = None) -> None:
        """Let time go by, with a round of the pool every `every_s`: seldom at first, if it is long, then as in production."""
        while seconds > 0:
            step = every_s or (4 * TICK_S if seconds > 60 else TICK_S)
            self.vast.advance(min(step, seconds))
            seconds -= step
            self.round(provider)

    def round(self, provider: RentalProvider | None = None) -> None:
        try:
            (provider or self.provider).reconcile()
        except InconclusiveListing:
            pass

    def until(self, true: Callable[[], bool], seconds: float = 900) -> None:
        waited = 0.0
        while not true():
            assert waited < seconds, self.described()
            self.go_on(2 * TICK_S, every_s=2 * TICK_S)
            waited += 2 * TICK_S

    @property
    def creates(self) -> int:
        """How many creations were asked for."""
        return self.vast.calls["create"]

    def ends_with_nothing(self) -> None:
        """Five minutes after the last job nothing is paid for, and nothing of others was touched."""
        self.go_on(300 + 300, every_s=20)
        assert self.vast.alive() == []
        assert self.rows.living() == []
        assert self.vast.touched_foreign() == []

    def stages(self) -> list[Stage]:
        """Of the living rentals."""
        return [rental.stage for rental in self.rows.living()]

    def all(self) -> list[Rental]:
        """Every rental there ever was."""
        return sorted([*self.rows.living(), *self.rows.ended_since(0)], key=lambda i: i.id)

    def ready(self) -> Rental:
        """A machine that is up, rented for a job that did not wait for it."""
        (waiting,) = self.wants()
        self.until(lambda: Stage.READY in self.stages() or Stage.IDLE in self.stages())
        self.over(waiting)
        return self.rows.living()[-1]

    def accepted(self) -> Attempt:
        """A new attempt that a machine takes at once."""
        (attempt,) = self.wants()
        assert isinstance(self.submit(attempt), Accepted)
        return attempt

    def busy(self) -> Attempt:
        """An attempt on a machine that has just come up."""
        self.ready()
        return self.accepted()

    def described(self) -> str:
        return "\n".join(f"{i.stage} {i.code} {i.reason}" for i in self.all())

    def _save(self, attempt: Attempt, **changes: Any) -> None:
        with self.store.transaction() as tx:
            fresh = tx.attempt(attempt.id)
            assert fresh is not None
            tx.save_attempt(replace(fresh, **changes))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    no_pauses(monkeypatch)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not answer at all is not waited for in real time."""
    for module in ("http", "worker_client"):
        monkeypatch.setattr(f"gateway.providers.{module}.CONNECT_TIMEOUT_S", 0.1)


def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between calls: time stands still here."""
    monkeypatch.setattr(client, "SPACING_S", dict.fromkeys(client.SPACING_S, 0.0))
    monkeypatch.setattr(client, "SEARCHES_A_MINUTE", 10_000)
    monkeypatch.setattr(client, "PAUSE_S", 0.0)
    monkeypatch.setattr(client, "SEARCH_PAUSE_S", 0.0)


@contextmanager
def rented(folder: Path, database: str, **changes: Any) -> Iterator[Scene]:
    """A scene with three machines at most, which boot in 20 s. `changes` are of the stand-in's configuration."""
    values = {"pretend": True, "speed": 0, "boot_s": 20, "home": folder / "vast", **changes}
    config = Config(spacing={}, searches_a_minute=10_000, **values)
    with Emulator(config) as vast:
        settings = Settings(
            providers=("vast",),
            secret_key=(SECRET_KEY,),
            data_dir=folder / "data",
            database_url=database,
            public_url="https://gateway.example",
        )
        own = VastSettings(
            deployment="test",
            api_base=vast.url,
            api_key=vast.config.api_key,
            worker_image="acme/reelay-worker:1.0",
            max_instances=3,
            allowed_ips=("127.0.0.1",),
        )
        store = Store(make_engine(database))
        yield Scene(vast, settings.with_parts(own), store, EmulatedClock(vast))
        store._engine.dispose()


@pytest.fixture
def scene(tmp_path: Path, database: str, at_once: None) -> Iterator[Scene]:
    with rented(tmp_path, database) as scene:
        yield scene
