"""`python -m tests.emulators.runpod`: the stand-in by hand. Ctrl-C stops it and its workers."""

from __future__ import annotations

from tests.emulators import common
from tests.emulators.runpod import Config, Emulator


def main() -> None:
    default = Config()
    parser = common.parser("runpod", "A stand-in for RunPod Serverless with real workers.", 8900, default.api_key)
    parser.add_argument("--endpoint-id", default=default.endpoint_id)
    parser.add_argument("--min-workers", type=int, default=default.min_workers)
    parser.add_argument("--max-workers", type=int, default=default.max_workers)
    parser.add_argument("--idle-timeout", type=float, default=default.idle_timeout_s, metavar="SECONDS")
    parser.add_argument("--queue-delay", type=float, default=default.queue_delay_s, metavar="SECONDS")
    parser.add_argument("--cold-start", type=float, default=default.cold_start_s, metavar="SECONDS")
    parser.add_argument("--latency-ms", type=float, default=default.latency_ms, help="of every call to the job API")
    asked = parser.parse_args()
    config = Config(
        **common.given(asked),
        endpoint_id=asked.endpoint_id,
        min_workers=asked.min_workers,
        max_workers=asked.max_workers,
        idle_timeout_s=asked.idle_timeout,
        queue_delay_s=asked.queue_delay,
        cold_start_s=asked.cold_start,
        latency_ms=asked.latency_ms,
    )
    with Emulator(config) as emulator:
        common.until_stopped(emulator, asked.fault)


if __name__ == "__main__":
    main()
