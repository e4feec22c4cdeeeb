"""A gateway whose dispatcher's leases end soon: a test need not wait a minute for what was cut off.

`python -m tests.end_to_end.brief_gateway`.
"""

from __future__ import annotations

from gateway.dispatch import loop


def main() -> None:
    loop.LEASE_MS = 3_000
    from gateway.__main__ import main as serve

    serve()


if __name__ == "__main__":
    main()
