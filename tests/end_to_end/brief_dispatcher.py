"""A dispatcher alone whose leases expire soon: a test need not wait a minute for what a killed one held."""

from gateway.dispatch import __main__ as alone
from gateway.dispatch import loop

loop.LEASE_MS = 3_000

if __name__ == "__main__":
    alone.main()
