"""A dispatcher with short leases: a test need not wait a minute for those of a killed one."""

from gateway.dispatch import __main__ as alone
from gateway.dispatch import loop

loop.LEASE_MS = 3_000

if __name__ == "__main__":
    alone.main()
