"""`python -m tests.emulators.vast`: the stand-in by hand. Ctrl-C ends it and its workers."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from tests.emulators.vast import Config, Emulator


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    default = Config()
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.vast",
        description="A stand-in for Vast.ai with real workers. POST /_control/faults makes it misbehave.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8901)
    parser.add_argument("--key", default=default.api_key, help="what callers must send as Bearer")
    parser.add_argument("--credit", type=float, default=default.credit, metavar="DOLLARS")
    parser.add_argument("--boot", type=float, default=default.boot_s, metavar="SECONDS", help="of its clock")
    parser.add_argument("--speed", type=float, default=default.speed, help="seconds of its clock in one of life")
    parser.add_argument("--pretend", action="store_true", help="light workers that make no video")
    parser.add_argument("--home", type=Path, help="keep logs and folders of the workers here")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the workers, as FETCH_ALLOW_ORIGINS"
    )
    return parser.parse_args(argv)


def main() -> None:
    given = arguments()
    config = Config(
        port=given.port,
        api_key=given.key,
        credit=given.credit,
        boot_s=given.boot,
        speed=given.speed,
        pretend=given.pretend,
        home=given.home and given.home.resolve(),
        env=dict(pair.partition("=")[::2] for pair in given.env),
    )
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    with Emulator(config) as emulator:
        for name, value in emulator.gateway_environ.items():
            print(f"export {name}={value}")
        print(f"# workers log to {emulator.home}; Ctrl-C ends it", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
