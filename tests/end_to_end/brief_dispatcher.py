"""A dispatcher alone whose leases end soon: a test need not wait a minute for what a killed one held."""

from gateway import dispatcher

dispatcher.LEASE_MS = 3_000

if __name__ == "__main__":
    dispatcher.main()
