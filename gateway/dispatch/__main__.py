"""`python -m gateway.dispatch`: run a dispatcher alone, for gateways with RUN_DISPATCHER=false."""

from __future__ import annotations

import signal
import sys

from common import log as logs
from common.settings import SettingsError
from gateway import create_app


def main() -> None:
    try:
        app = create_app()
    except SettingsError as error:
        sys.exit(f"Wrong settings: {error}")
    services = app.extensions["reelay"]
    logs.configure(services.settings.log_level)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: services.dispatcher.request_stop())
    services.dispatcher.run()


if __name__ == "__main__":
    main()
