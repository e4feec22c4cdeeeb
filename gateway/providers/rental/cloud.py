"""The interface of a cloud that rents machines, and the records that it exchanges.

To add a cloud, add a package under `clouds/` with a class that has these methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gateway.domain.prices import TrafficPrice
from gateway.providers.base import Unavailable

# Values of `NotCreated.code` that this package acts on; all others are the cloud's own.
NO_ANSWER = "no_answer"
OFFER_GONE = "offer_gone"
CANNOT_PAY = "cannot_pay"


class Status(StrEnum):
    """The state of a machine, as far as the fleet manager acts on it."""

    STARTING = "starting"
    RUNNING = "running"
    #: The cloud cannot reach it. It may come back if it has run before, and never runs otherwise.
    LOST = "lost"
    #: It does not run and will not run again. It may still be billed.
    ENDED = "ended"


@dataclass(frozen=True)
class Offer:
    """A machine that can be rented and meets the requirements."""

    #: The cloud's id of the offer.
    id: int
    #: The cloud's id of the physical machine, by which a broken one is avoided.
    machine_id: int
    #: Name of its GPU, as the cloud spells it.
    gpu: str
    #: Nano-dollars an hour, disk included.
    price_nano: int
    #: Price of the machine's traffic, which `price_nano` does not include.
    traffic: TrafficPrice = TrafficPrice()

    @property
    def nano_per_s(self) -> int:
        return math.ceil(self.price_nano / 3600)


@dataclass(frozen=True)
class Order:
    """What is rented: a container of the worker's image with one port that can be reached from outside."""

    #: The worker's image, with its version or digest.
    image: str
    #: Distinguishes our machines from all others; see labels.py.
    label: str
    #: Variables of the worker's environment.
    environment: Mapping[str, str]
    #: Port of the worker in its container.
    port: int


@dataclass(frozen=True)
class Machine:
    """A rented machine as the cloud describes it."""

    #: The cloud's id of the rented machine.
    id: int
    #: The label that it was rented with; None without one.
    label: str | None
    #: What the fleet manager makes of `word`.
    status: Status
    #: The cloud's own word for the status.
    word: str
    #: Public address of the worker's port; None while it is unknown.
    host: str | None = None
    #: Public number of the worker's port; None while it is unknown.
    port: int | None = None
    #: Dollars an hour; None where the cloud does not report it.
    price: float | None = None
    #: The cloud's id of the physical machine.
    machine_id: int | None = None
    #: Seconds since 1970.
    started_at: float | None = None


class InconclusiveListing(Unavailable):
    """The cloud's response, or the lack of one, proves nothing about the machines."""


class NotCreated(Exception):
    """The create call returned no machine, which may exist nevertheless."""

    def __init__(self, code: str, reason: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        #: OFFER_GONE, CANNOT_PAY, NO_ANSWER or the cloud's own word.
        self.code = code
        #: Whether the refusal is clear: then one complete listing without the label proves that there is no machine.
        self.certain = certain


class Cloud(Protocol):
    """One account. Safe to share between threads. No call is retried, and each waits briefly for the rate limit."""

    #: Name of the provider.
    name: str
    #: Display name, in messages.
    title: str

    def search(self) -> Sequence[Offer]:
        """Return the offers that fit the settings, the best first. Raises Unavailable."""

    def create(self, offer: Offer, order: Order) -> int:
        """Rent the offer and return the machine's id.

        Assumes that `await_create` has just returned. The call is never retried. Raises NotCreated for every
        response that does not name the new machine.
        """

    def list(self) -> Sequence[Machine]:
        """Return all machines of the account. Raises InconclusiveListing unless the listing is complete."""

    def get(self, machine_id: int) -> Machine | None:
        """Return the machine, or None when it certainly is gone. Host and port may be missing.

        Raises InconclusiveListing.
        """

    def destroy(self, machine_id: int) -> bool:
        """Request the destruction of the machine; return whether it is proven to be gone. Raises Unavailable.

        It is no error if the machine is gone already. An accepted call proves nothing.
        """

    def await_create(self) -> None:
        """Wait until the cloud's limits allow a create call. Raises Unavailable when that takes too long."""

    def credit(self) -> float:
        """Return the dollars left on the account. Raises Unavailable."""
