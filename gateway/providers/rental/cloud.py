"""What a cloud of rented machines has to do: five calls, and what they exchange.

Another cloud is one package under `clouds/` with a class that has these methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gateway.providers.base import Unavailable

# `code` of NotCreated where the reason matters here; otherwise it is the cloud's own word.
NO_ANSWER = "no_answer"
OFFER_GONE = "offer_gone"
CANNOT_PAY = "cannot_pay"


class Status(StrEnum):
    """Of a machine, as far as it decides what is done with it."""

    STARTING = "starting"
    RUNNING = "running"
    #: The cloud does not reach it. One that has run before may come back; one that has not never runs.
    LOST = "lost"
    #: It does not run and will not run again. It may still be paid for.
    ENDED = "ended"


@dataclass(frozen=True)
class Offer:
    """A machine that can be rented and fits."""

    #: The cloud's id of the offer.
    id: int
    #: The cloud's id of the physical machine, by which a broken one is avoided.
    machine_id: int
    gpu: str
    #: Nano-dollars an hour, disk included.
    price_nano: int

    @property
    def nano_per_s(self) -> int:
        return math.ceil(self.price_nano / 3600)


@dataclass(frozen=True)
class Order:
    """What is rented: a container of the worker's image with one port that can be reached from outside."""

    image: str
    #: Tells our machines from all others; see labels.py.
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
    label: str | None
    status: Status
    #: The cloud's own word for the status.
    word: str
    #: Where the worker's port is reached from outside; None while the cloud does not say.
    host: str | None = None
    port: int | None = None
    #: Dollars an hour; None where the cloud does not say.
    price: float | None = None
    #: The cloud's id of the physical machine.
    machine_id: int | None = None
    #: Seconds since 1970.
    started_at: float | None = None


class InconclusiveListing(Unavailable):
    """Nothing may be concluded from what the cloud returned, or failed to return."""


class NotCreated(Exception):
    """The create call returned no machine; there may be one all the same."""

    def __init__(self, code: str, reason: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        #: OFFER_GONE, CANNOT_PAY, NO_ANSWER or the cloud's own word.
        self.code = code
        #: Whether the answer is clear: one complete listing without the label is then proof that there is no machine.
        self.certain = certain


class Cloud(Protocol):
    """One account. Safe to share between threads. No call is repeated on its own, and each waits its turn briefly."""

    #: Name of the provider.
    name: str
    #: Name for people, in messages.
    title: str

    def search(self) -> Sequence[Offer]:
        """Return the offers that fit the settings, the best first. Raises Unavailable."""

    def create(self, offer: Offer, order: Order) -> int:
        """Rent the offer and return the machine's id.

        Assumes that `await_create` has just returned. The call is sent once, whatever happens. Raises NotCreated for
        every answer that does not name the new machine.
        """

    def list(self) -> Sequence[Machine]:
        """Return all machines of the account. Raises InconclusiveListing unless the listing is complete."""

    def get(self, machine_id: int) -> Machine | None:
        """Return the machine, or None when it certainly is gone. Host and port may be missing here.

        Raises InconclusiveListing.
        """

    def destroy(self, machine_id: int) -> bool:
        """Ask for the end of the machine; return whether it is proven to be gone. Raises Unavailable.

        A machine that is gone already is no error. An accepted call proves nothing.
        """

    def await_create(self) -> None:
        """Wait until the cloud's limits allow a create call. Raises Unavailable when that takes too long."""

    def credit(self) -> float:
        """Return the dollars left on the account. Raises Unavailable."""
