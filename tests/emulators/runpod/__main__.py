"""`python -m tests.emulators.runpod`: the stand-in by hand. Ctrl-C ends it and its workers."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from tests.emulators.runpod import Config, Emulator


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    default = Config()
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.runpod",
        description="A stand-in for RunPod Serverless with real workers. POST /_control/faults makes it misbehave.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8900)
    parser.add_argument("--endpoint-id", default=default.endpoint_id)
    parser.add_argument("--key", default=default.api_key, help="what callers must send as Bearer")
    parser.add_argument("--min-workers", type=int, default=default.min_workers)
    parser.add_argument("--max-workers", type=int, default=default.max_workers)
    parser.add_argument("--idle-timeout", type=float, default=default.idle_timeout_s, metavar="SECONDS")
    parser.add_argument("--queue-delay", type=float, default=default.queue_delay_s, metavar="SECONDS")
    parser.add_argument("--cold-start", type=float, default=default.cold_start_s, metavar="SECONDS")
    parser.add_argument("--latency-ms", type=float, default=default.latency_ms, help="of every call of the job API")
    parser.add_argument("--home", type=Path, help="keep logs and outputs of the workers here")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the workers, as FETCH_ALLOW_ORIGINS"
    )
    return parser.parse_args(argv)


def main() -> None:
    given = arguments()
    config = Config(
        port=given.port,
        endpoint_id=given.endpoint_id,
        api_key=given.key,
        min_workers=given.min_workers,
        max_workers=given.max_workers,
        idle_timeout_s=given.idle_timeout,
        queue_delay_s=given.queue_delay,
        cold_start_s=given.cold_start,
        latency_ms=given.latency_ms,
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
