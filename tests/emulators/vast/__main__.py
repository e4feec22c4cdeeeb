"""`python -m tests.emulators.vast`: the stand-in by hand. Ctrl-C stops it and its workers."""

from __future__ import annotations

from tests.emulators import common
from tests.emulators.vast import Config, Emulator


def main() -> None:
    default = Config()
    parser = common.parser("vast", "A stand-in for Vast.ai with real workers.", 8901, default.api_key)
    parser.add_argument("--credit", type=float, default=default.credit, metavar="DOLLARS")
    parser.add_argument("--boot", type=float, default=default.boot_s, metavar="SECONDS", help="in seconds of its clock")
    parser.add_argument("--speed", type=float, default=default.speed, help="seconds of its clock per real second")
    parser.add_argument("--pretend", action="store_true", help="light workers that make no video")
    asked = parser.parse_args()
    config = Config(
        **common.given(asked), credit=asked.credit, boot_s=asked.boot, speed=asked.speed, pretend=asked.pretend
    )
    with Emulator(config) as emulator:
        common.until_stopped(emulator, asked.fault)


if __name__ == "__main__":
    main()
