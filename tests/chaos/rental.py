"""One job on a rented machine, from its submit until nothing is paid for any more, with deaths and lies as asked for."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from gateway.domain.rentals import COMING, OVER, Stage
from gateway.providers.clouds.vast import reap
from handler import events, upload
from tests.chaos.gateway import Zygote
from tests.chaos.scene import FINISHED, KEY, Broken
from tests.chaos.scenery import opened
from tests.chaos.stepped import Gateway, SharedClock
from tests.chaos.steps import Book, Plan, Point
from tests.emulators.vast import Config, Emulator, offer

IDLE_S, BOOT_S, JOB_S = 30, 10, 3
# By then nothing may be alive: after a machine was needed last, or after the last one was made.
LEFT_S = 300
# Emulated seconds between two rounds: at the beginning, when much happens, and later on.
SHORT_S, LONG_S, SHORT_UNTIL_S = 5.0, 20.0, 40.0
# No job takes longer, whatever was in its way; and no silence of a pretended worker, in life's seconds.
JOB_PATIENCE_S, WORK_PATIENCE_S = 3600.0, 10.0
# Longer than every lease.
SLEEP_S = 90.0
# After the last call of a gateway.
DEAD_MAN_S = 420 + BOOT_S + 60
BEHIND = 2
# The reaper comes again and again: a listing that lags shows a machine later.
REAPS = 2
# Of another deployment, of none, of ours but for one letter more.
STRANGERS = (
    "reelay:chaos2:0195a3c2-7e11-7cc2-a5b2-3d1e0f6a9b10:1700000000",
    "reelay:chaos:notes",
    "reelay:chaos:0195a3c2-7e11-7cc2-a5b2-3d1e0f6a9b10:1700000000x",
)
Lie = Callable[[Emulator], object]


def _fault(kind: str, on: str, **more: Any) -> Lie:
    return lambda vast: vast.inject(kind, on, **more)


def _later(seconds: float, first: Mapping[str, Any], then: Mapping[str, Any]) -> Lie:
    """The configuration is `first`, and `then` from so many seconds on."""

    def begin(vast: Emulator) -> None:
        vast.configure(**first)
        vast.account.later(seconds, lambda: vast.configure(**then))

    return begin


def _all_gone(vast: Emulator) -> None:
    """Others have all the offers for a while."""
    offers = vast.account.offers
    kept = list(offers)
    offers.clear()
    vast.account.later(100, lambda: offers.extend(kept))


LIES: Mapping[str, Lie] = {
    "list far behind": lambda vast: vast.configure(list_behind=6),
    "list not behind": lambda vast: vast.configure(list_behind=0),
    "error after the effect": _fault("error_after", "create"),
    "effect after the error": _fault("late_effect", "create", seconds=30),
    "effect long after the error": _fault("late_effect", "create", seconds=200),
    "new_contract in an error": _fault("contract_in_error", "create"),
    "reply of create lost": _fault("lost_reply", "create"),
    "create never arrives": _fault("lost_request", "create"),
    "create refused": _fault("refused", "create"),
    "create makes no sense": _fault("garbage", "create"),
    "offer gone": _fault("gone", "create", status=410),
    "no offers": _all_gone,
    "no offers told": _fault("no_offers", "search", times=2),
    "cannot pay": _fault("insufficient_credit", "create"),
    "credit gone": _later(100, {"credit": 0.0}, {"credit": 25.0}),
    "destroy ignored": _fault("ignored", "destroy", times=2),
    "reply of destroy lost": _fault("lost_reply", "destroy", times=2),
    "destroy fails": _fault("status", "destroy", status=500, times=3),
    "429": _fault("rate_limited", "*", times=3),
    "429 on create": _fault("rate_limited", "create"),
    "5xx": _fault("status", "*", status=503, times=3),
    "replies lost": _fault("lost_reply", "*", times=3),
    "wrong count": _fault("wrong_count", "list", times=3),
    "truncated": _fault("truncated", "list", times=3),
    "nothing listed": _fault("empty", "list", times=1),
    "wrong key": _fault("auth_error", "*", times=3),
    "not shown": _fault("status", "show", status=500, times=2),
    "image pull fails": _fault("pull_fails", "boot"),
    "loading for ever": _fault("never_runs", "boot"),
    "slow boot": _fault("slow_boot", "boot", seconds=100),
    "ports late": _fault("ports_late", "boot", seconds=30),
    "no worker": _fault("no_worker", "boot"),
    "black hole": _fault("black_hole", "boot", seconds=1),
    "stopped by the host": _fault("stopped", "boot", seconds=4),
    "address changed": _fault("moved", "boot", seconds=4),
    "container dies": _fault("dies", "boot", seconds=4),
    "taken away": _fault("vanishes", "boot", seconds=4),
    "container begins anew": _fault("restarted", "boot", seconds=4),
}


# Listings that lag by two minutes: longer than a rental in doubt is looked for. Then a second machine may be rented before
# the first is seen; it is destroyed all the same.
TOO_FAR_BEHIND = frozenset({"list far behind"})


class What(StrEnum):
    """What happens at the points of a run."""

    DIES = "dies"  # the gateway, and is started again
    SLEEPS = "sleeps"  # longer than its lease, while another one goes on
    IS_GONE = "is gone"  # for ever


@dataclass(frozen=True)
class Run:
    """What is to be done to a gateway, and by Vast.ai."""

    points: tuple[Point, ...] = ()
    lie: str | None = None
    what: What = What.DIES


@dataclass
class Outcome:
    """One run: what it did, and what was wrong afterwards (nothing, if all is well)."""

    run: Run
    plan: Plan = field(default_factory=Plan)
    wrong: list[str] = field(default_factory=list)
    creates: int = 0
    emulated_s: float = 0.0
    seconds: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether everything that was planned has come about."""
        return len(self.plan.died) == len(self.run.points)

    def __str__(self) -> str:
        points = f" {self.run.what} ".join([", then ".join(map(str, self.run.points)) or "nobody", ""]).rstrip()
        return f"{points}, {self.run.lie or 'no lie'}: {'; '.join(self.wrong) or 'well'} ({self.seconds:.1f} s)"


class Scene:
    """Makes runs, one after the other, each with a market and a database of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.book = home, Book(home)
        self._runs = 0

    def __enter__(self) -> Scene:
        events.PERIOD_S = 0.1
        upload.PAUSES_S = (0.1,) * 100
        self.zygote = Zygote()
        # At RunPod nobody listens.
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))
        self.runpod = f"http://127.0.0.1:{self._closed.getsockname()[1]}/v2"
        self.past = self.home / "past"
        self._make_past()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.zygote.close()
        self._closed.close()

    def _make_past(self) -> None:
        """A gateway's folder before its first job."""
        with _life(self, self.home / "first-start", Run()) as life:
            life.start()
        life.data.rename(self.past)

    def run(self, run: Run) -> Outcome:
        self._runs += 1
        outcome, began = Outcome(run), time.monotonic()
        with _life(self, self.home / f"run-{self._runs}", run) as life:
            try:
                self.book.open(*run.points, sleep=run.what is What.SLEEPS)
                life.live()
                outcome.wrong += life.wrong()
            except Exception as error:
                outcome.wrong.append(f"{type(error).__name__}: {error}")
            finally:
                outcome.plan = self.book.close()
                outcome.creates, outcome.emulated_s = life.vast.calls["create"], life.age_s
        outcome.seconds = time.monotonic() - began
        if not outcome.wrong:
            shutil.rmtree(life.home)
        return outcome


class _Life:
    """One job's life at a gateway, or two, while time goes by only here."""

    def __init__(self, scene: Scene, home: Path, run: Run, vast: Emulator) -> None:
        self.home, self.data, self.vast = home, home / "data", vast
        self._scene, self._run = scene, run
        self._clock = SharedClock(home / "clock")
        self._begin_s = vast.clock.now()
        self._wrong: list[str] = []
        self._groups: list[int] = []
        self._ports = _free_ports()
        # Workers report to one that never sleeps.
        self._url = f"http://127.0.0.1:{self._ports[run.what is What.SLEEPS]}"
        self._first, self._second = (Gateway(home / name) for name in ("first", "second"))
        self._slept_at: float | None = None
        self._woken = False
        self._job_id = ""
        self._job_ended_s = 0.0
        self._tell_time()

    @property
    def age_s(self) -> float:
        return self.vast.clock.now() - self._begin_s

    def start(self) -> None:
        self._start(self._first, "first", CHAOS=str(self._scene.home))
        if self._run.what is What.SLEEPS:
            self._start(self._second, "second")

    def _start(self, gateway: Gateway, name: str, **more: str) -> None:
        environ = {
            **self.vast.gateway_environ,
            "PROVIDERS": "runpod,vast",
            "RUNPOD_API_KEY": "key",
            "RUNPOD_ENDPOINT_ID": "endpoint",
            "RUNPOD_API_BASE": self._scene.runpod,
            "VAST_IDLE_TIMEOUT": str(IDLE_S),
            "DEPLOYMENT": "chaos",
            "PUBLIC_URL": self._url,
            "PORT": str(self._ports[gateway is self._second]),
            "DATA_DIR": str(self.data),
            "X_API_KEY": KEY,
            "MIN_FREE_DISK_PERCENT": "1",
            "CLOCK": str(self.home / "clock"),
            "ORDERS": str(self.home / name),
            "LOG": str(self.home / f"{name}.log"),
            **({"ONCE": "yes"} if self._run.what is What.IS_GONE else {}),
            **more,
        }
        self._groups.append(self._scene.zygote.start(environ))
        gateway.wait()

    def live(self) -> None:
        """Submit, follow to the end, wait until nothing is paid for, and a while longer."""
        self._watch_creations()
        for label in STRANGERS:
            self.vast.stranger(label)
        if self._run.lie:
            LIES[self._run.lie](self.vast)
        self.start()
        if self._run.what is What.IS_GONE:
            self._be_left_alone()
            return
        self._submit()
        while not self._job_is_over():
            self._go_on()
            if self.age_s > JOB_PATIENCE_S:
                raise Broken(f"the job never ended: {self._told()}")
        self._job_ended_s = self.vast.clock.now()
        while not self._quiet():
            self._go_on()
            if self.vast.clock.now() > self._must_be_over_s():
                raise Broken(f"still there: {self._told()}")
        made = len(self.vast.instances)
        for _ in range(2):
            self._go_on(35)
        if len(self.vast.instances) != made or self.vast.alive():
            raise Broken(f"something came back: {self._told()}")

    def _be_left_alone(self) -> None:
        """Go on until the gateway is gone, and long enough for every dead-man switch."""
        self._submit()
        while self._first.up:
            self._go_on()
            if self.age_s > JOB_PATIENCE_S:
                raise Broken("the point was not come to")
            if not self.vast.alive() and self._job_is_over():
                return
        for _ in range(int(DEAD_MAN_S // LONG_S) + 1):
            self.vast.advance(LONG_S)
        if booted := [one.id for one in self.vast.alive() if one.running_at is not None]:
            raise Broken(f"still there: {booted} {self._told()}")
        for _ in range(REAPS):
            wish = argparse.Namespace(deployment="chaos", all=True, dry_run=False, most=10)
            reap.Reaper(reap.Vast(self.vast.url, self.vast.config.api_key, pause_s=0), wish).run()
        if self.vast.alive():
            raise Broken(f"the reaper leaves {self._told()}")

    def wrong(self) -> list[str]:
        """What Vast.ai and the database tell that they should not."""
        wrong = list(self._wrong)
        if touched := self.vast.touched_strangers():
            wrong.append(f"touched: {[one.label for one in touched]}")
        if self._run.what is What.IS_GONE:
            return wrong
        again = self._submit()
        if self._rows("SELECT id FROM jobs") != [(again,)]:
            wrong.append(f"jobs: {self._rows('SELECT id, status FROM jobs')}")
        if self._rows("SELECT status FROM jobs") != [("completed",)]:
            wrong.append(f"the job has not completed: {self._told()}")
        if self._rows("SELECT count(*) FROM attempts WHERE state = 'done'") != [(1,)]:
            wrong.append(f"not done once: {self._told()}")
        return wrong

    def _go_on(self, seconds: float | None = None) -> None:
        """Let time go by, with a round of every gateway that is awake, and what the workers do of it."""
        self.vast.advance(seconds or (SHORT_S if self.age_s < SHORT_UNTIL_S else LONG_S))
        self._tell_time()
        sleeping = self._slept_at is not None and not self._woken
        if not sleeping and not self._first.tick(self._scene.book if self._sleeps_today() else None):
            self._interrupted()
        elif sleeping and self.age_s - (self._slept_at or 0) > SLEEP_S:
            self._wake()
        if self._run.what is What.SLEEPS and self._second.up and not self._second.tick():
            self._wake()  # another thread of it was in the middle of a transaction: then SQLite makes all wait
        self._settle()

    def _wake(self) -> None:
        self._woken = True
        self._first.wake(self._scene.book)

    def _sleeps_today(self) -> bool:
        return self._run.what is What.SLEEPS and self._slept_at is None

    def _interrupted(self) -> None:
        if self._run.what is What.SLEEPS:
            self._slept_at = self.age_s
        elif self._run.what is What.DIES:
            self._first.wait()

    def _settle(self) -> None:
        """Until all workers just wait for the clock, or for a gateway that is gone."""
        ends_at = time.monotonic() + WORK_PATIENCE_S
        while self.vast.at_work() > 0 and self._run.what is not What.IS_GONE:
            if time.monotonic() > ends_at:
                raise Broken("a worker does not come to an end")
            time.sleep(0.003)

    def _tell_time(self) -> None:
        self._clock.set(round(self.vast.clock.now() * 1000))

    def _submit(self) -> str:
        """Until somebody acknowledges."""
        params = {"url_video": "http://example.com/v.mp4", "url_audio": "http://example.com/a.m4a"}
        headers = {"X-API-Key": KEY, "Idempotency-Key": str(uuid.UUID(int=1))}
        ends_at = time.monotonic() + WORK_PATIENCE_S
        while True:
            try:
                url = f"{self._url}/video/adicionaAudio"
                answer = requests.post(url, json=params, headers=headers, timeout=10)
                if answer.status_code < 300:
                    self._job_id = str(answer.json()["jobId"])
                    return self._job_id
                reason = answer.text
            except requests.RequestException as error:
                reason = str(error)
            if self._run.what is What.IS_GONE:
                return ""
            if time.monotonic() > ends_at:
                raise Broken(f"the job is not acknowledged: {reason}")
            time.sleep(0.01)

    def _job_is_over(self) -> bool:
        found = self._rows("SELECT status, next_at FROM jobs")
        return bool(found) and found[0][0] in FINISHED

    def _quiet(self) -> bool:
        """Nothing is paid for, will come late, or is still thought about."""
        over = ", ".join(f"'{stage}'" for stage in OVER)
        waits = self._rows(f"SELECT id FROM rentals WHERE stage NOT IN ({over})")
        waits += self._rows("SELECT id FROM jobs WHERE next_at IS NOT NULL")
        asleep = self._slept_at is not None and not self._woken
        return not (self.vast.alive() or self.vast.account.is_due() or waits or asleep)

    def _must_be_over_s(self) -> float:
        made = [one.created_at for one in self.vast.instances if not one.stranger]
        return max([self._job_ended_s + IDLE_S, *made]) + LEFT_S

    def _watch_creations(self) -> None:
        """When a creation comes, no other one may be in doubt, and no machine be there that is not on its way out."""
        free = self.vast.account.free

        def watched(offer_id: int) -> Any:
            records = self._rows("SELECT stage, remote_id FROM rentals")
            coming = [stage for stage, _ in records if Stage(stage) in COMING]
            ending = {remote_id for stage, remote_id in records if stage == Stage.DESTROYING}
            there = [(one.id, one.status) for one in self.vast.alive() if one.id not in ending]
            if self._run.lie in TOO_FAR_BEHIND and coming == [Stage.CREATING]:
                return free(offer_id)
            if (coming != [Stage.CREATING] or there) and self._slept_at is None:
                self._wrong.append(f"a creation at {self.age_s:.0f} s while there was {records}, {there}")
            return free(offer_id)

        self.vast.account.free = watched  # type: ignore[method-assign]

    def _rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.data / "reelay.db", timeout=10)) as connection:
            return connection.execute(query).fetchall()

    def _told(self) -> str:
        with opened(self.data) as store:
            job, attempts = store.job(self._job_id), store.attempts(self._job_id)
        machines = self._rows("SELECT stage, code, remote_id, reason FROM rentals ORDER BY id")
        alive = [(one.id, one.status) for one in self.vast.alive()]
        tried = [(each.provider, str(each.state), each.error_code) for each in attempts]
        status = job and (str(job.status), job.error_code, job.waiting_for)
        return f"at {self.age_s:.0f} s job {status}, attempts {tried}, records {machines}, alive {alive}"

    def close(self) -> None:
        for group in self._groups:
            self._scene.zygote.kill(group)
        for gateway in (self._first, self._second):
            gateway.close()


def _free_ports() -> tuple[int, int]:
    """Where a gateway may begin again and again: below the ports that the system gives to whoever calls."""
    found = list[int]()
    while len(found) < 2:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found[0], found[1]


@contextmanager
def _life(scene: Scene, home: Path, run: Run) -> Iterator[_Life]:
    home.mkdir()
    if scene.past.exists():
        shutil.copytree(scene.past, home / "data")
    else:
        (home / "data").mkdir()
    config = Config(
        pretend=True,
        speed=0,
        spacing={},
        searches_a_minute=10_000,
        boot_s=BOOT_S,
        job_s=JOB_S,
        list_behind=BEHIND,
        home=home / "vast",
    )
    offers = [offer(100_000 + number, dph_total=0.1 + number / 100) for number in range(8)]
    with Emulator(config, offers) as vast, closing(_Life(scene, home, run, vast)) as life:
        yield life
