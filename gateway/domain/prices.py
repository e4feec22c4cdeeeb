"""The price of machines. Money is counted in integer nano-dollars and shown as dollars with six decimals."""

from __future__ import annotations

import math
from dataclasses import dataclass

GB = 1_000_000_000
# Traffic of a usual job, in bytes: for comparisons of prices, and for attempts whose worker reported no figures.
USUAL_FETCHED_BYTES, USUAL_STORED_BYTES = 100_000_000, 50_000_000


@dataclass(frozen=True)
class TrafficPrice:
    """The price of traffic, where a machine's traffic is billed."""

    #: Nano-dollars per GB (10^9 bytes) that the machine receives.
    down: int = 0
    #: Nano-dollars per GB that it sends.
    up: int = 0

    def nano(self, down_bytes: int, up_bytes: int) -> int:
        """Cost of so many bytes to the machine and from it, in nano-dollars."""
        return math.ceil((self.down * down_bytes + self.up * up_bytes) / GB)


@dataclass(frozen=True)
class Price:
    """The price of a machine."""

    #: Nano-dollars per second.
    nano_per_s: int
    #: Seconds for which it is billed after its last job.
    idle_s: int = 0
    #: For the bytes of jobs.
    traffic: TrafficPrice = TrafficPrice()
    #: Nano-dollars for the pull of the worker's image, if this attempt bears it; otherwise 0.
    pull_nano: int = 0


def usd(nano: int) -> float:
    return round(nano / 1e9, 6)
