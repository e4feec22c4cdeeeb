"""A gateway that takes a worker for dead after a few seconds of silence: `python -m tests.end_to_end.hasty`."""

from __future__ import annotations

from wire import envelope

SILENCE_S = 4


def main() -> None:
    envelope.SILENCE_S = SILENCE_S  # before the gateway reads it
    from gateway.__main__ import main as serve

    serve()


if __name__ == "__main__":
    main()
