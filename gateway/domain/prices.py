"""The price of machines. Money is counted in integer nano-dollars and shown as dollars with six decimals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """The price of a machine."""

    #: Nano-dollars per second.
    nano_per_s: int
    #: Seconds for which it is billed after its last job.
    idle_s: int = 0


def usd(nano: int) -> float:
    return round(nano / 1e9, 6)
