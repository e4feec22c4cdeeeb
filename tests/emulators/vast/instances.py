"""The instances of one account: their states on the stand-in's clock, and their costs."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from tests.emulators.vast.clock import Clock
from tests.emulators.vast.config import Config
from tests.emulators.vast.containers import Container, Hardware, Pretence, Processes
from tests.emulators.vast.faults import BOOT, Fault, Faults
from tests.emulators.vast.market import refuses_nvenc
from tests.emulators.vast.ports import MappedPort, Ports

CREATED_S, LOADING_S = 1.0, 2.0  # after the creation
STEP_S = 1.0
STORAGE_DPH = 0.002  # of a stopped instance
PORT = "3334"
# Faults of a running instance.
LATER = frozenset({"stopped", "moved", "black_hole", "dies", "vanishes", "restarted"})


@dataclass(eq=False)
class Instance:
    """A rented machine."""

    id: int
    label: str | None
    offer: Mapping[str, Any]
    created_at: float
    image: str = ""
    runtype: str = "args"
    env: Mapping[str, str] = field(default_factory=dict)
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    foreign: bool = False
    status: str | None = None
    message: str | None = None
    running_at: float | None = None
    ended_at: float | None = None
    ended_by: str | None = None
    dollars: float = 0.0  # traffic included
    traffic_dollars: float = 0.0
    paid_s: float = 0.0  # from creation to end
    touched: int = 0  # calls that destroy or change it
    jobs: list[str] = field(default_factory=list)  # the attempts that it pretended to run
    plan: Fault | None = None  # the fault that awaits it
    done: bool = False  # whether that has happened
    container: Container | None = None
    port: MappedPort | None = None

    @property
    def alive(self) -> bool:
        return self.ended_at is None


class Account:
    """All rentals. `lock` guards them."""

    def __init__(
        self,
        config: Callable[[], Config],
        clock: Clock,
        faults: Faults,
        offers: list[dict[str, Any]],
        home: Path,
        url: Callable[[], str],
    ) -> None:
        self.lock = threading.RLock()
        self.offers, self.instances = offers, dict[int, Instance]()
        self._config, self._clock, self._faults, self._home, self._url = config, clock, faults, home, url
        self._ids = itertools.count(20_000_001)
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._ports = Ports()
        self._billed_at = clock.now()

    # ---- called by the API

    def alive(self) -> list[Instance]:
        with self.lock:
            return [instance for instance in self.instances.values() if instance.alive]

    def known(self, instance_id: int) -> Instance | None:
        with self.lock:
            instance = self.instances.get(instance_id)
            return instance if instance and instance.alive else None

    @property
    def credit(self) -> float:
        with self.lock:
            return self._config().credit - sum(one.dollars for one in self.instances.values())

    def free(self, offer_id: int) -> Mapping[str, Any] | None:
        """The offer if it is not rented."""
        with self.lock:
            return next((row for row in self.market() if row["id"] == offer_id and row["rentable"]), None)

    def market(self) -> list[dict[str, Any]]:
        """All offers, those of rented machines marked."""
        with self.lock:
            taken = {one.offer["id"] for one in self.alive()}
            return [
                {**row, "rentable": False, "rented": True} if row["id"] in taken else dict(row) for row in self.offers
            ]

    def withdraw(self, offer_id: int) -> None:
        """Remove the offer, as if another client had taken it."""
        with self.lock:
            self.offers[:] = [row for row in self.offers if row["id"] != offer_id]

    def create(self, offer: Mapping[str, Any], **fields: Any) -> Instance:
        with self.lock:
            instance = Instance(next(self._ids), offer=offer, created_at=self._clock.now(), **fields)
            instance.plan = None if instance.foreign else self._faults.strike(BOOT)
            self.instances[instance.id] = instance
            self.transfer(instance, self._config().image_bytes, 0)
            return instance

    def transfer(self, instance: Instance, down_bytes: int, up_bytes: int) -> None:
        """Bill traffic to the machine (down) and from it (up)."""
        with self.lock:
            offer = instance.offer
            dollars = (down_bytes * (offer["inet_down_cost"] or 0) + up_bytes * (offer["inet_up_cost"] or 0)) / 1e9
            if not instance.foreign:
                instance.traffic_dollars += dollars
                instance.dollars += dollars

    def refuses_nvenc(self, offer: Mapping[str, Any]) -> bool:
        """Whether a container on the offer's machine cannot encode with its GPU."""
        return refuses_nvenc(offer) or offer["machine_id"] in self._config().refusing_machines

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        with self.lock:
            self._later.append((self._clock.now() + seconds, act))

    def is_due(self) -> bool:
        """Whether an effect of `later` is pending."""
        with self.lock:
            return bool(self._later)

    def end(self, instance: Instance, by: str) -> None:
        """Remove the instance, which costs nothing from now on."""
        with self.lock:
            if not instance.alive:
                return
            self._bill()
            self._halt(instance)
            instance.ended_at, instance.ended_by = self._clock.now(), by

    def stop(self, instance: Instance) -> None:
        """Stop the instance; its disk still costs money."""
        with self.lock:
            self._bill()
            self._halt(instance)
            instance.status, instance.done = "stopped", True

    def exit(self, instance: Instance, status: str = "exited") -> None:
        """End the instance's container."""
        with self.lock:
            self._halt(instance)
            instance.status, instance.message = status, "Error response from daemon"

    def restart(self, instance: Instance) -> None:
        """Kill the container and start it with the same disk."""
        with self.lock:
            assert instance.container and instance.port
            instance.container.kill()
            self._start(instance)

    def mapped(self, instance: Instance) -> dict[str, Any] | None:
        """The field `ports` of the API; None until the ports are mapped."""
        with self.lock:
            if instance.port is None or instance.status != "running" or instance.running_at is None:
                return None
            if _is(instance.plan, "ports_late") and self._since(instance) < instance.plan.seconds:
                return None
            port = str(instance.port.port)
            return {f"{PORT}/tcp": [{"HostIp": address, "HostPort": port} for address in ("::", "0.0.0.0")]}

    # ---- as time passes

    def start(self) -> None:
        self._ports.start()

    def close(self) -> None:
        with self.lock:
            for instance in self.alive():
                self._halt(instance)
        self._ports.stop()

    def sweep(self) -> list[Container]:
        """Do what is due; return the containers whose dead-man switch wants them destroyed."""
        with self.lock:
            self._bill()
            now = self._clock.now()
            due = [act for at, act in self._later if at <= now]
            self._later = [one for one in self._later if one[0] > now]
            for act in due:
                act()
            if self.credit <= 0:
                for instance in self.alive():
                    if not instance.foreign and instance.status != "stopped":
                        self.stop(instance)
            for instance in self.alive():
                self._grow(instance, now - instance.created_at)
            return [one.container for one in self.alive() if one.container and one.container.overdue()]

    def _grow(self, instance: Instance, age_s: float) -> None:
        plan, boot_s = instance.plan, self._config().boot_s
        if instance.status in {None, "created", "loading"}:
            if _is(plan, "slow_boot"):
                boot_s += plan.seconds
            if age_s >= boot_s and not _is(plan, "never_runs"):
                self._boot(instance)
            elif age_s >= LOADING_S:
                instance.status, instance.message = "loading", f"{instance.image}: Pulling fs layer"
            elif age_s >= CREATED_S:
                instance.status = "created"
        elif instance.status == "running":
            if instance.container and instance.container.exited:
                self.exit(instance)
            elif plan and plan.kind in LATER and not instance.done and self._since(instance) >= plan.seconds:
                instance.done = True
                self.strike(instance, plan)

    def _boot(self, instance: Instance) -> None:
        if _is(instance.plan, "pull_fails"):
            return self.exit(instance, instance.plan.word)
        instance.status, instance.running_at = "running", self._clock.now()
        instance.message = f"success, running {instance.image}"
        if instance.foreign or not self._serves(instance):
            return None
        instance.port = MappedPort(self._ports)
        if not _is(instance.plan, "no_worker"):
            instance.container = self._container(instance)
            self._start(instance)
        return None

    def _serves(self, instance: Instance) -> bool:
        """Whether the request asked for the image's own entry point, as an HTTP worker with its port mapped."""
        env = instance.env
        return instance.runtype == "args" and f"-p {PORT}:{PORT}" in env and env.get("WORKER_MODE") == "http"

    def _container(self, instance: Instance) -> Container:
        config, refuses = self._config(), self.refuses_nvenc(instance.offer)
        env = {
            **(config.refusing_env if refuses else {}),
            **{name: value for name, value in instance.env.items() if not name.startswith("-")},
            "CONTAINER_ID": str(instance.id),
            "CONTAINER_API_KEY": instance.key,
            "SELF_DESTROY_BASE": self._url(),
        }
        if config.pretend:
            hardware = Hardware(str(instance.offer["gpu_name"]), refuses, partial(self.transfer, instance))
            return Pretence(env, instance.jobs, hardware, self._config, self._clock)
        return Processes(env, self._home / str(instance.id), config, self._clock)

    def _start(self, instance: Instance) -> None:
        assert instance.container and instance.port
        instance.container.start()
        instance.port.target = instance.container.port

    def strike(self, instance: Instance, plan: Fault) -> None:
        """Let the fault happen now. Raises ValueError if it cannot."""
        match plan.kind:
            case "stopped":
                self.stop(instance)
            case "dies":
                self.exit(instance)
            case "vanishes":
                self.end(instance, "host")
            case "moved" if instance.port is not None:
                instance.port.move()
            case "black_hole" if instance.port:
                instance.port.black_hole()
            case "restarted" if instance.container:
                self.restart(instance)
            case _:
                raise ValueError(f"{plan.kind} cannot happen to what is {instance.status}")

    def _halt(self, instance: Instance) -> None:
        if instance.container:
            instance.container.kill()
        if instance.port:
            instance.port.close()
        instance.container = instance.port = None

    def _since(self, instance: Instance) -> float:
        assert instance.running_at is not None
        return self._clock.now() - instance.running_at

    def _bill(self) -> None:
        now = self._clock.now()
        for instance in self.alive():
            seconds = now - max(self._billed_at, instance.created_at)
            runs = instance.status not in {"stopped", "exited", "offline"}
            instance.paid_s += seconds
            if not instance.foreign:
                instance.dollars += seconds / 3600 * (instance.offer["dph_total"] if runs else STORAGE_DPH)
        self._billed_at = now


def _is(plan: Fault | None, kind: str) -> TypeGuard[Fault]:
    return plan is not None and plan.kind == kind
