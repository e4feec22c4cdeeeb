"""`make run`: gateway and worker on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from dotenv import dotenv_values

from common.settings import SettingsError, read
from gateway.access.keys import make_secret
from gateway.settings import Settings
from handler.settings import Settings as WorkerSettings
from scripts.stack import ROOT, VARIABLES, Stack, StackError


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with _stack() as stack:
            _greet(stack)
            while True:
                time.sleep(1)
                stack.check()
    except (StackError, SettingsError, OSError) as error:
        print(f"Could not run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0


def _stack() -> Stack:
    """A stack with the settings of the environment and `.env`, and defaults that work on a laptop."""
    given = {name: value for name, value in {**dotenv_values(ROOT / ".env"), **os.environ}.items() if value}
    environ = {name: value for name, value in given.items() if name in VARIABLES}
    settings, worker = read(Settings, environ), read(WorkerSettings, environ)
    data_dir = settings.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = settings.x_api_key or _kept_key(data_dir / "api_key")
    return Stack(data_dir, data_dir / "logs", settings.port, worker.worker_port, key, environ)


def _kept_key(path: Path) -> str:
    """The key of the last run, or a new one."""
    if not path.exists():
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(make_secret())
    return path.read_text().strip()


def _greet(stack: Stack) -> None:
    body = json.dumps({"url_image": f"{stack.url}/samples/photo.jpg", "duration": 3})
    print(f"Gateway  {stack.url}  (documentation at {stack.url}/docs/)")
    print(f"API key  {stack.api_key}")
    print(f"Logs     {stack.log_dir}")
    print("\nTry it:\n")
    print(
        f"curl -H 'X-API-Key: {stack.api_key}' -H 'Content-Type: application/json' -H 'Prefer: wait=60'"
        f" {stack.url}/video/img2vid -d '{body}'"
    )
    print("\nCtrl-C stops both.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
