"""The command line of the stand-ins."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Emulator(Protocol):
    """The part of a stand-in that the command line uses."""

    #: the folder with logs and folders of the workers
    home: Path

    @property
    def gateway_environ(self) -> Mapping[str, str]:
        """The variables with which a gateway uses the stand-in."""

    def inject(self, kind: str, on: str, **more: Any) -> object:
        """Add a fault."""


def parser(name: str, description: str, port: int, key: str) -> argparse.ArgumentParser:
    """A parser with the options of every stand-in."""
    made = argparse.ArgumentParser(
        prog=f"python -m tests.emulators.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--port", type=int, default=port)
    made.add_argument("--key", default=key, help="the Bearer token that callers must send")
    made.add_argument("--home", type=Path, help="keep logs and folders of the workers here")
    made.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the workers, such as FETCH_ALLOW_ORIGINS"
    )
    made.add_argument(
        "--fault", action="append", default=[], type=json.loads, metavar="JSON", help="a Fault, see faults.py"
    )
    return made


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `parser` as fields of a Config."""
    return {
        "port": arguments.port,
        "api_key": arguments.key,
        "home": arguments.home and arguments.home.resolve(),
        "env": dict(pair.partition("=")[::2] for pair in arguments.env),
    }


def until_stopped(emulator: Emulator, faults: list[dict[str, Any]]) -> None:
    """Inject the faults, print the variables for a gateway, and wait for Ctrl-C."""
    for fault in faults:
        emulator.inject(**fault)
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    for name, value in emulator.gateway_environ.items():
        print(f"export {name}={value}")
    print(f"# workers log to {emulator.home}; stop with Ctrl-C", flush=True)
    stop.wait()
