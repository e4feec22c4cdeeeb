"""`python -m tests.emulators runpod|vast`: run a stand-in by hand. Ctrl-C stops it and its workers."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import threading


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators", description=__doc__)
    parser.add_argument("name", choices=("runpod", "vast"))
    parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="fields of Config, see config.py")
    parser.add_argument(
        "--fault", action="append", default=[], type=json.loads, metavar="JSON", help="a Fault, see faults.py"
    )
    chosen = parser.parse_args()
    package, stop = importlib.import_module(f"tests.emulators.{chosen.name}"), threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    with package.Emulator(package.Config(**chosen.config)) as emulator:
        for fault in chosen.fault:
            emulator.inject(**fault)
        for name, value in emulator.gateway_environ.items():
            print(f"export {name}={value}")
        print(f"# workers log to {emulator.home}; stop with Ctrl-C", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
