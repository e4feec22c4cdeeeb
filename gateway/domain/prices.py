"""What the machines cost. Money is counted in integer nano-dollars and shown as dollars with six decimals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """Of a machine: nano-dollars a second, and how many seconds it is paid for after its last job."""

    nano_per_s: int
    idle_s: int = 0

    @property
    def idle_nano(self) -> int:
        return self.nano_per_s * self.idle_s


def usd(nano: int) -> float:
    return round(nano / 1e9, 6)
