"""Make a machine with a stand-in for NVIDIA's driver in a folder, for a try by hand."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.emulators.nvenc import SETTINGS, Driver, build, missing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.nvenc", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("settings", nargs="*", help=f"NAME=VALUE, see settings.h: {', '.join(sorted(SETTINGS))}")
    given = parser.parse_args()
    if lacking := missing() or (None if shutil.which("ffmpeg") else "ffmpeg"):
        parser.exit(1, f"{lacking} is missing; with CI set, scripts/setup.sh installs what is needed\n")
    with tempfile.TemporaryDirectory() as libraries:
        driver = Driver(given.folder.resolve(), build(Path(libraries)))
    driver.set(log="", **dict(setting.split("=", 1) for setting in given.settings))
    print(f"export PATH={driver.bin}:$PATH")


if __name__ == "__main__":
    main()
