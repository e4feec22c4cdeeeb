"""`python -m gateway.dispatch`: run a dispatcher alone, for gateways with RUN_DISPATCHER=false."""

from __future__ import annotations

import signal
import sys
import threading

from common import log as logs
from common.settings import SettingsError
from gateway.configuration import load
from gateway.wiring import Services

STOPPED_BY = {signal.SIGTERM, signal.SIGINT}


def main() -> None:
    try:
        settings = load()
    except SettingsError as error:
        sys.exit(f"Wrong settings: {error}")
    logs.configure(settings.log_level)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPED_BY)  # in all threads: they are waited for below
    dispatcher = Services.wire(settings).dispatcher
    running = threading.Thread(target=dispatcher.run, name="dispatcher")
    running.start()
    signal.sigwait(STOPPED_BY)
    dispatcher.request_stop()
    running.join()


if __name__ == "__main__":
    main()
