"""Runs of one job on a rented machine, until nothing is paid for any more, with deaths and false responses of Vast.ai."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from gateway.domain.rentals import COMING, OVER
from gateway.domain.rentals import Stage as RentalStage
from gateway.providers.clouds.vast import reap
from handler import events, upload
from tests.chaos.gateway import Zygote
from tests.chaos.runs import Broken, Outcome, Run, Stage, What
from tests.chaos.scenery import FINISHED, insist, opened, rows, settings
from tests.chaos.stepped import Gateway, SharedClock
from tests.emulators.vast import Config, Emulator, offer

IDLE_S, BOOT_S, JOB_S = 30, 10, 3
# Nothing may be alive so long after a machine was last needed, and after the last one was created.
LEFT_S = 300
# Emulated seconds between two rounds: at the beginning, when much happens, and later.
SHORT_S, LONG_S, SHORT_UNTIL_S = 5.0, 20.0, 40.0
# No job takes longer, whatever happens to it; and no pretended worker is busy for longer, in real seconds.
JOB_PATIENCE_S, WORK_PATIENCE_S = 3600.0, 10.0
# Longer than every lease.
SLEEP_S = 90.0
# After the last call of a gateway.
DEAD_MAN_S = 420 + BOOT_S + 60
BEHIND = 2
# The reaper runs repeatedly: a listing that lags shows a machine later.
REAPS = 2
# Labels of another deployment, of none, and of ours with one more letter.
FOREIGN = (
    "reelay:chaos2:0195a3c2-7e11-7cc2-a5b2-3d1e0f6a9b10:1700000000",
    "reelay:chaos:notes",
    "reelay:chaos:0195a3c2-7e11-7cc2-a5b2-3d1e0f6a9b10:1700000000x",
)
Lie = Callable[[Emulator], object]


def _fault(kind: str, on: str, **more: Any) -> Lie:
    return lambda vast: vast.inject(kind, on, **more)


def _later(seconds: float, first: Mapping[str, Any], then: Mapping[str, Any]) -> Lie:
    """The configuration is `first`, and `then` after so many seconds."""

    def begin(vast: Emulator) -> None:
        vast.configure(**first)
        vast.account.later(seconds, lambda: vast.configure(**then))

    return begin


def _all_gone(vast: Emulator) -> None:
    """Other customers have all the offers for a while."""
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
    "garbage from create": _fault("garbage", "create"),
    "offer gone": _fault("gone", "create", status=410),
    "no offers": _all_gone,
    "empty search": _fault("no_offers", "search", times=2),
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
    "show fails": _fault("status", "show", status=500, times=2),
    "image pull fails": _fault("pull_fails", "boot"),
    "never loaded": _fault("never_runs", "boot"),
    "slow boot": _fault("slow_boot", "boot", seconds=100),
    "ports late": _fault("ports_late", "boot", seconds=30),
    "no worker": _fault("no_worker", "boot"),
    "black hole": _fault("black_hole", "boot", seconds=1),
    "stopped by the host": _fault("stopped", "boot", seconds=4),
    "address changed": _fault("moved", "boot", seconds=4),
    "container dies": _fault("dies", "boot", seconds=4),
    "taken away": _fault("vanishes", "boot", seconds=4),
    "container restarts": _fault("restarted", "boot", seconds=4),
}

# Listings that lag by two minutes: longer than a rental in doubt is looked for. Then a second machine may be rented before
# the first is seen; it is destroyed all the same.
TOO_FAR_BEHIND = frozenset({"list far behind"})


class Scene(Stage):
    """A market and a database for each run."""

    def __enter__(self) -> Scene:
        events.PERIOD_S = 0.1
        upload.PAUSES_S = (0.1,) * 100
        self.zygote = Zygote()
        # A port of RunPod where nothing listens.
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))
        self.runpod = f"http://127.0.0.1:{self._closed.getsockname()[1]}/v2"
        with _life(self, self.home / "first-start", Run()) as life:
            life.start()
        life.data.rename(self.past)  # a gateway's folder before its first job
        return self

    def __exit__(self, *_: object) -> None:
        self.zygote.close()
        self._closed.close()

    def _carry_out(self, outcome: Outcome, home: Path) -> None:
        with _life(self, home, outcome.run) as life:
            with self._planned(outcome):
                life.live()
                outcome.wrong += life.wrong()
            outcome.counts.update({"creations": life.vast.calls["create"], "s at Vast.ai": round(life.age_s)})


class _Life:
    """One job at a gateway, or at two, whose clock moves only here."""

    def __init__(self, scene: Scene, home: Path, run: Run, vast: Emulator) -> None:
        self.home, self.data, self.vast = home, home / "data", vast
        self._scene, self._run = scene, run
        self._clock = SharedClock(home / "clock")
        self._begin_s = vast.clock.now()
        self._wrong: list[str] = []
        self._groups: list[int] = []
        self._ports = _free_ports()
        # Workers report to the gateway that never sleeps.
        self._url = f"http://127.0.0.1:{self._ports[run.what is What.SLEEPS]}"
        self._first, self._second = (Gateway(home / name) for name in ("first", "second"))
        self._slept_at: float | None = None
        self._woken = False
        self._job_id = ""
        self._job_ended_s = 0.0
        self._set_time()

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
            **settings(self._ports[gateway is self._second], self.data),
            "PUBLIC_URL": self._url,
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
        for label in FOREIGN:
            self.vast.foreign(label)
        if self._run.fault:
            LIES[self._run.fault](self.vast)
        self.start()
        if self._run.what is What.IS_GONE:
            self._be_gone()
            return
        self._submit()
        while not self._job_is_over():
            self._go_on()
            if self.age_s > JOB_PATIENCE_S:
                raise Broken(f"the job never ended: {self._state()}")
        self._job_ended_s = self.vast.clock.now()
        while not self._quiet():
            self._go_on()
            if self.vast.clock.now() > self._must_be_over_s():
                raise Broken(f"still there: {self._state()}")
        made = len(self.vast.instances)
        for _ in range(2):
            self._go_on(35)
        if len(self.vast.instances) != made or self.vast.alive():
            raise Broken(f"something came back: {self._state()}")

    def _be_gone(self) -> None:
        """Go on until the gateway is gone, and long enough for every dead-man switch."""
        self._submit()
        while self._first.up:
            self._go_on()
            if self.age_s > JOB_PATIENCE_S:
                raise Broken("the point was not reached")
            if not self.vast.alive() and self._job_is_over():
                return
        for _ in range(int(DEAD_MAN_S // LONG_S) + 1):
            self.vast.advance(LONG_S)
        if booted := [one.id for one in self.vast.alive() if one.running_at is not None]:
            raise Broken(f"still there: {booted} {self._state()}")
        for _ in range(REAPS):
            wish = argparse.Namespace(deployment="chaos", all=True, dry_run=False, limit=10)
            reap.Reaper(reap.Vast(self.vast.url, self.vast.config.api_key, pause_s=0), wish).run()
        if self.vast.alive():
            raise Broken(f"the reaper leaves {self._state()}")

    def wrong(self) -> list[str]:
        """What is wrong at Vast.ai and in the database."""
        wrong = list(self._wrong)
        if touched := self.vast.touched_foreign():
            wrong.append(f"touched: {[one.label for one in touched]}")
        if self._run.what is What.IS_GONE:
            return wrong
        again = self._submit()
        if self._rows("SELECT id FROM jobs") != [(again,)]:
            wrong.append(f"jobs: {self._rows('SELECT id, status FROM jobs')}")
        if self._rows("SELECT status FROM jobs") != [("completed",)]:
            wrong.append(f"the job has not completed: {self._state()}")
        if self._rows("SELECT count(*) FROM attempts WHERE state = 'done'") != [(1,)]:
            wrong.append(f"not done once: {self._state()}")
        return wrong

    def _go_on(self, seconds: float | None = None) -> None:
        """Move the clock, with a round of every gateway that is awake, until the workers wait for the clock again."""
        self.vast.advance(seconds or (SHORT_S if self.age_s < SHORT_UNTIL_S else LONG_S))
        self._set_time()
        sleeping = self._slept_at is not None and not self._woken
        if not sleeping and not self._first.tick(self._scene.book if self._will_sleep() else None):
            self._interrupted()
        elif sleeping and self.age_s - (self._slept_at or 0) > SLEEP_S:
            self._wake()
        if self._run.what is What.SLEEPS and self._second.up and not self._second.tick():
            self._wake()  # it sleeps in a transaction of another thread, for which SQLite makes all wait
        self._settle()

    def _wake(self) -> None:
        self._woken = True
        self._first.wake(self._scene.book)

    def _will_sleep(self) -> bool:
        return self._run.what is What.SLEEPS and self._slept_at is None

    def _interrupted(self) -> None:
        if self._run.what is What.SLEEPS:
            self._slept_at = self.age_s
        elif self._run.what is What.DIES:
            self._first.wait()

    def _settle(self) -> None:
        """Wait until all workers wait for the clock, unless the gateway that they report to is gone."""
        ends_at = time.monotonic() + WORK_PATIENCE_S
        while self.vast.at_work() > 0 and self._run.what is not What.IS_GONE:
            if time.monotonic() > ends_at:
                raise Broken("a worker does not end")
            time.sleep(0.003)

    def _set_time(self) -> None:
        self._clock.set(round(self.vast.clock.now() * 1000))

    def _submit(self) -> str:
        """Submit until the job is acknowledged; once only, if the gateway may be gone for ever."""
        params = {"url_video": "http://example.com/v.mp4", "url_audio": "http://example.com/a.m4a"}
        gone, key = self._run.what is What.IS_GONE, {"Idempotency-Key": str(uuid.UUID(int=1))}
        url, patience_s = f"{self._url}/video/adicionaAudio", 0 if gone else WORK_PATIENCE_S
        with contextlib.suppress(*[Broken] if gone else []):
            answer = insist("POST", url, json=params, headers=key, patience_s=patience_s)
            self._job_id = str(answer.json()["jobId"])
        return self._job_id

    def _job_is_over(self) -> bool:
        found = self._rows("SELECT status, next_at FROM jobs")
        return bool(found) and found[0][0] in FINISHED

    def _quiet(self) -> bool:
        """Whether nothing is paid for, due later, or still being worked on."""
        over = ", ".join(f"'{stage}'" for stage in OVER)
        waits = self._rows(f"SELECT id FROM rentals WHERE stage NOT IN ({over})")
        waits += self._rows("SELECT id FROM jobs WHERE next_at IS NOT NULL")
        asleep = self._slept_at is not None and not self._woken
        return not (self.vast.alive() or self.vast.account.is_due() or waits or asleep)

    def _must_be_over_s(self) -> float:
        made = [one.created_at for one in self.vast.instances if not one.foreign]
        return max([self._job_ended_s + IDLE_S, *made]) + LEFT_S

    def _watch_creations(self) -> None:
        """Check at every creation that no other one is in doubt, and that every machine there is being destroyed."""
        free = self.vast.account.free

        def watched(offer_id: int) -> Any:
            records = self._rows("SELECT stage, remote_id FROM rentals")
            coming = [stage for stage, _ in records if RentalStage(stage) in COMING]
            ending = {remote_id for stage, remote_id in records if stage == RentalStage.DESTROYING}
            there = [(one.id, one.status) for one in self.vast.alive() if one.id not in ending]
            if self._run.fault in TOO_FAR_BEHIND and coming == [RentalStage.CREATING]:
                return free(offer_id)
            if (coming != [RentalStage.CREATING] or there) and self._slept_at is None:
                self._wrong.append(f"a creation at {self.age_s:.0f} s while there was {records}, {there}")
            return free(offer_id)

        self.vast.account.free = watched  # type: ignore[method-assign]

    def _rows(self, query: str) -> list[Any]:
        return rows(self.data, query)

    def _state(self) -> str:
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
    """Ports where a gateway may start repeatedly: below those that the system assigns to outgoing connections."""
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
