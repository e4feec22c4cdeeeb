"""`python -m gateway`: migrate, then serve with gunicorn in one process, and dispatch in another.

The dispatcher's threads would otherwise take Python's lock from those that serve requests.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from common import log as logs
from common.clock import SystemClock
from common.http_server import Server
from common.settings import SettingsError
from gateway import create_app
from gateway.access.keys import Keys
from gateway.api import application  # noqa: F401 - imported before the processes fork, they share its memory
from gateway.configuration import load
from gateway.db.engine import brief, make_engine
from gateway.db.migrations import migrate
from gateway.db.store import Store
from gateway.dispatch.link import Link
from gateway.dispatch.loop import Dispatcher
from gateway.settings import Settings
from gateway.wiring import Services

log = structlog.get_logger(__name__)

STOP_S = 7  # for transfers in progress; `docker stop` kills after ten seconds
# How long a thread may keep Python's lock from the others. A short request takes the lock several times, and waits this
# long for every thread that computes. Python's default is 5 ms.
SWITCH_S = 0.0005
# From glibc's <malloc.h>. With one arena per thread, memory that a thread frees is not available to others.
_M_ARENA_MAX, ARENAS = -8, 2


def main() -> None:
    try:
        settings = load()
    except SettingsError as error:
        sys.exit(f"Wrong settings: {error}")
    logs.configure(settings.log_level)
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
    try:
        prepare(settings)
    except SQLAlchemyError as error:
        sys.exit(f"The database cannot be used: {brief(error)}")
    link = Link()
    gc.freeze()  # otherwise the processes would soon copy the memory that they share
    Server(
        lambda: create_app(settings),
        bind=f"{settings.host}:{settings.port}",
        threads=settings.threads,
        on_stop=_begin_stop,
        urgent={"/health"},
        make_companion=partial(dispatcher, settings, link) if settings.run_dispatcher else None,
        graceful_timeout=STOP_S,
        keepalive=5,
        limit_request_line=4094,  # bytes; a signed URL has about 300
        limit_request_fields=64,
        limit_request_field_size=8190,
        post_worker_init=partial(_start, link),
        worker_exit=_stop,
        proc_name="reelay-gateway",
    ).run()


def prepare(settings: Settings) -> None:
    """Migrate the database and store X_API_KEY."""
    migrate(settings)
    engine = make_engine(settings.database, pool_size=1)
    try:
        keys = Keys(Store(engine), SystemClock())
        keys.adopt(settings.x_api_key)
        if not any(key.revoked_at is None for key in keys.list()):
            log.warning("keys.none_found", hint="flask --app gateway keys create NAME")
    finally:
        engine.dispose()  # the server forks: no connection may be shared by two processes


def dispatcher(settings: Settings, link: Link) -> Dispatcher:
    """The dispatcher of this process, connected with the one that serves."""
    services = Services.wire(settings)
    services.notifier.on_end = partial(link.notify, "ended")
    services.metrics.forward = partial(link.notify, "counted")
    link.dispatch(services.notifier.notify)
    return services.dispatcher


def serve(services: Services, link: Link) -> None:
    """Connect the process that serves with the dispatcher's."""
    services.notifier.on_change = link.wake
    link.serve({"ended": services.waiting_room.ended, "counted": services.metrics.count})


def _start(link: Link, worker: Any) -> None:
    if worker.wsgi is None:  # the dispatcher's process
        return
    sys.setswitchinterval(SWITCH_S)
    services = worker.wsgi.extensions["reelay"]
    serve(services, link)
    services.body_process.start()


def _begin_stop(app: Flask) -> None:
    app.extensions["reelay"].waiting_room.close()


def _stop(server: Any, worker: Any) -> None:
    if worker.wsgi is not None:
        worker.wsgi.extensions["reelay"].body_process.stop()


if __name__ == "__main__":
    main()
