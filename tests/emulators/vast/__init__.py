"""A stand-in for Vast.ai: its API over HTTP, real workers on its machines, a clock of its own, and faults.

    with Emulator(Config(pretend=True, speed=0)) as vast:
        VastSettings(api_base=vast.url, api_key=vast.config.api_key, …)
        vast.inject("ignored", "destroy", times=2)       # see faults.py; on="boot": for the next instance
        vast.configure(list_behind=2, credit=0)          # see config.py
        vast.foreign("reelay:other:…")                   # an instance of another user of the account
        vast.strike(instance_id, "black_hole")           # now
        vast.configure(refusing_machines=[1_050_042])    # NVENC refuses there, as on slices with drivers 570 to 609
        vast.advance(300)                                # its clock, in seconds; `vast.clock.speed = 20` makes it run
        vast.alive(), vast.bill(), vast.calls["create"], vast.log, vast.touched_foreign(), vast.unfit

`python -m tests.emulators vast` runs it by hand.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from flask import Flask

from tests.emulators.runpod.server import Server
from tests.emulators.vast.api import vast_api
from tests.emulators.vast.calls import Call, Calls
from tests.emulators.vast.clock import Clock
from tests.emulators.vast.config import Config
from tests.emulators.vast.containers import Pretence
from tests.emulators.vast.faults import Fault, Faults
from tests.emulators.vast.instances import STEP_S, Account, Instance
from tests.emulators.vast.market import market, offer

__all__ = ["Call", "Config", "Emulator", "Fault", "Instance", "market", "offer"]

TICK_S = 0.02
SETTLE_S = 1.0


class Emulator:
    """One account. Serves `url` inside `with`; stops with all its machines at the end."""

    def __init__(self, config: Config | None = None, offers: list[dict[str, Any]] | None = None) -> None:
        self.config = config or Config()
        self.home = self.config.home or Path(tempfile.mkdtemp(prefix="vast-"))
        self.clock = Clock(self.config.speed)
        self.faults = Faults()
        offers = market() if offers is None else offers
        self.account = Account(self._config, self.clock, self.faults, offers, self.home, lambda: self.url)
        self._calls = Calls(self._config, self.clock, self.faults)
        app = Flask(__name__)
        app.register_blueprint(vast_api(self._config, self.clock, self.account, self._calls))
        self._server = Server((self.config.host, self.config.port), app)
        self._sweeping, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="vast", daemon=True)

    def __enter__(self) -> Emulator:
        self.account.start()
        self._server.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop; does nothing when stopped already."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self.account.close()
        self._server.stop()
        if not self.config.home:
            shutil.rmtree(self.home, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"http://{self.config.host}:{self._server.server_address[1]}"

    @property
    def gateway_environ(self) -> dict[str, str]:
        """The variables with which a gateway rents here."""
        return {
            "PROVIDERS": "vast",
            "VAST_API_BASE": self.url,
            "VAST_API_KEY": self.config.api_key,
            "VAST_WORKER_IMAGE": "example/reelay-worker:1.0",
            "VAST_ALLOWED_IPS": self.config.host,
            "DEPLOYMENT": "emulated",
        }

    # ---- faults and time

    def configure(self, **changes: Any) -> None:
        """Replace fields of the configuration while it runs."""
        self.config = dataclasses.replace(self.config, **changes)

    def inject(self, kind: str, on: str, **more: Any) -> Fault:
        """Add a Fault with these fields; its `hits` counts how often it struck."""
        fault = Fault(kind, on, **more)
        self.faults.add(fault)
        return fault

    def strike(self, instance_id: int, what: str) -> None:
        """Let a fault of `boot` happen to a running instance now. Raises KeyError or ValueError."""
        with self.account.lock:
            self.account.strike(self.account.instances[instance_id], Fault(what, "boot"))

    def foreign(self, label: str | None, **fields: Any) -> int:
        """Add an instance of another user of the account, which runs soon; return its id."""
        made = self.account.create(offer(2_000_000, **fields), label=label, image="someone/else:1", foreign=True)
        return made.id

    def advance(self, seconds: float) -> None:
        """Move the clock; return when everything that is due is done."""
        while seconds > 0:
            step = min(STEP_S, seconds)
            seconds -= step
            self.clock.move(step)
            self._sweep()
        # pretended attempts need real time for what is due
        ends_at = time.monotonic() + SETTLE_S
        while self.at_work() and time.monotonic() < ends_at:
            time.sleep(0.005)

    def _run(self) -> None:
        while not self._closing.wait(TICK_S):
            self._sweep()

    def _sweep(self) -> None:
        with self._sweeping:
            for container in self.account.sweep():
                container.self_destroy()

    # ---- results

    @property
    def instances(self) -> list[Instance]:
        """All instances ever created, also those of other users, in order."""
        with self.account.lock:
            return list(self.account.instances.values())

    def alive(self, label: str = "") -> list[Instance]:
        """The instances that were rented through the API, cost money now, and whose label begins with `label`."""
        mine = [instance for instance in self.account.alive() if not instance.foreign]
        return [instance for instance in mine if (instance.label or "").startswith(label)]

    def at_work(self) -> int:
        """How many pretended attempts are busy, and not just waiting for the clock."""
        pretences = [one.container for one in self.instances if isinstance(one.container, Pretence)]
        return sum(pretence.active() for pretence in pretences) - self.clock.waiting()

    def touched_foreign(self) -> list[Instance]:
        """Instances of other users that a call named."""
        return [instance for instance in self.instances if instance.foreign and instance.touched]

    def bill(self) -> dict[str, Any]:
        """{created, alive, paid_s, dollars, traffic_dollars, instances: [{id, label, …}]}, without those of other users.

        `dollars` includes the traffic.
        """
        self._sweep()
        mine = [instance for instance in self.instances if not instance.foreign]
        return {
            "created": len(mine),
            "alive": sum(instance.alive for instance in mine),
            "paid_s": sum(instance.paid_s for instance in mine),
            "dollars": sum(instance.dollars for instance in mine),
            "traffic_dollars": sum(instance.traffic_dollars for instance in mine),
            "instances": [_summary(instance) for instance in self.instances],
        }

    @property
    def calls(self) -> Counter[str]:
        """How many calls of each kind were made, failed ones included; a worker's own destroy is `self-destroy`."""
        return self._calls.counts()

    @property
    def log(self) -> list[Call]:
        return list(self._calls.log)

    @property
    def unfit(self) -> list[str]:
        """Responses that break the published schema, except injected ones."""
        return list(self._calls.unfit)

    def reset_calls(self) -> None:
        self._calls.reset()

    def _config(self) -> Config:
        return self.config


def _summary(instance: Instance) -> dict[str, Any]:
    names = ("id", "label", "status", "created_at", "running_at", "ended_at", "ended_by")
    more = ("paid_s", "dollars", "traffic_dollars", "foreign", "touched", "jobs", "alive")
    return {name: getattr(instance, name) for name in (*names, *more)}
