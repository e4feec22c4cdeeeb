"""`python -m tests.end_to_end.hasty_gateway`: a gateway with short leases that takes a silent worker for dead within seconds."""

from __future__ import annotations

from gateway import __main__ as gateway
from gateway.dispatch import limits, loop

limits.SILENCE_MS = 4_000
loop.LEASE_MS = 3_000

if __name__ == "__main__":
    gateway.main()
