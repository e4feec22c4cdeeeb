"""`python -m tests.chaos.gateway`: starts gateways fast, by forking a process that has imported everything.

Every line on standard input, a JSON object of environment variables, starts a gateway, with ROLE=dispatcher a dispatcher
alone, with CLOCK a gateway on a stand-in's clock (`stepped.py`). The response is the id of a process, and of its group,
that restarts it whenever it was killed, as systemd does, but not with ONCE.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa
from werkzeug.serving import WSGIRequestHandler, make_server

from common import log
from gateway import create_app, storage
from gateway.__main__ import prepare
from gateway.configuration import read_settings
from gateway.dispatch import finish, limits, loop, poll_schedule
from gateway.domain import transitions, webhooks
from gateway.settings import Settings
from gateway.storage import local
from gateway.upkeep import janitor
from gateway.webhooks import sender
from gateway.wiring import Services
from tests.chaos import stepped, steps

# Minutes or many seconds in production: what a run waits for after a death. Far longer than a busy machine delays a live
# process, because one that is taken for dead costs the job a try.
TIMES = {
    (limits, "SILENCE_MS"): 4_000,
    (limits, "AMBIGUOUS_MS"): 3_000,
    (limits, "UNCLAIMED_MS"): 8_000,  # longer than RunPod takes to hand a job over again, which costs no try
    (finish, "POLL_CLAIMED_MS"): 500,
    (finish, "LATER_MS"): 300,
    (loop, "LEASE_MS"): 1_000,
    (loop, "IDLE_S"): 0.25,
    (loop, "HEARTBEAT_MS"): 1_500,
    (loop, "TICK_MS"): 500,
    (transitions, "RETRY_AFTER_MS"): (100, 200),
    (poll_schedule, "FIRST_MS"): 400,
    (poll_schedule, "FIRST_WITH_EVENTS_MS"): 400,
    (poll_schedule, "MIN_MS"): 200,
    (loop, "CHORE_MS"): 1_000,
    (janitor, "ROUND_MS"): 300,
    (local, "HALF_WRITTEN_MS"): 1_500,
    (sender, "LEASE_MS"): 1_000,
    (webhooks, "PAUSES_S"): (0, *[0.3] * 9),
}


class _Quiet(WSGIRequestHandler):
    def log_request(self, *args: object) -> None: ...


def serve(environ: Mapping[str, str]) -> None:
    """Run a gateway like `python -m gateway`, in this process and with a simpler HTTP server."""
    for (module, name), value in (stepped.AT_ONCE if "CLOCK" in environ else TIMES).items():
        assert hasattr(module, name), name
        setattr(module, name, value)
    storage.MAX_KEPT_BYTES = 100_000  # otherwise every start writes 16 MB
    for name in {"SILENCE_MS", "AMBIGUOUS_MS"} & environ.keys():
        setattr(limits, name, int(environ[name]))
    if "CHAOS" in environ:
        steps.install("gateway", Path(environ["CHAOS"]))
    settings = read_settings(environ)
    log.configure("INFO")
    prepare(settings)
    app = create_app(settings)
    services: Services = app.extensions["reelay"]
    if environ.get("ROLE") == "dispatcher":
        services.dispatcher.run()
    server = make_server("127.0.0.1", settings.port, app, threaded=True, request_handler=_Quiet)
    if "CLOCK" in environ:
        clock = stepped.SharedClock(Path(environ["CLOCK"]))
        services = app.extensions["reelay"] = Services.wire(settings, clock=clock)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stepped.obey(services.dispatcher, environ["ORDERS"])
    elif settings.run_dispatcher:
        threading.Thread(target=services.dispatcher.run, daemon=True).start()
    server.serve_forever(0.05)


def _never_sync() -> None:
    """Turn syncing off: only processes die here, never the machine, so nothing that SQLite wrote is lost."""

    def never_sync(connection: object, *_: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    sa.event.listen(sa.Pool, "checkout", never_sync)


def _supervise(environ: Mapping[str, str]) -> None:
    steps.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with Path(environ["LOG"]).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    while (child := os.fork()) != 0:
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) not in {steps.KILLED, -signal.SIGKILL} or "ONCE" in environ:
            os._exit(1)
    steps.die_with_parent()
    serve(environ)


def _warm_up() -> None:
    log.configure("ERROR")
    _never_sync()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(providers=("local",), secret_key=("x" * 40,), data_dir=Path(folder), x_api_key="x" * 16)
        prepare(settings)
        urls = {"url_video": "http://example.com/v.mp4", "url_audio": "http://example.com/a.m4a"}
        headers = {"X-API-Key": "x" * 16}
        job = create_app(settings).test_client().post("/video/adicionaAudio", json=urls, headers=headers)
        assert job.status_code == 202, job.text
    gc.collect()
    gc.freeze()  # otherwise every gateway copies the shared memory


def main() -> None:
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                os.setpgid(0, 0)
                _supervise(json.loads(line))
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(1)
        os.setpgid(child, child)  # here too, because either process may be first
        print(child, flush=True)


class Zygote:
    """The process that starts gateways."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.gateway"]
        self._process = subprocess.Popen(
            command, cwd=steps.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()
        self._running: set[int] = set()

    def start(self, environ: Mapping[str, str]) -> int:
        """Start a gateway that is restarted after every death; return the argument for `kill`."""
        assert self._process.stdin and self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(dict(environ)) + "\n")
            self._process.stdin.flush()
            group = int(self._process.stdout.readline())
            self._running.add(group)
        return group

    def kill_once(self, group: int) -> bool:
        """Kill the gateway with SIGKILL, after which it is restarted. False when it is down already."""
        children = Path(f"/proc/{group}/task/{group}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        return bool(children)

    def kill(self, group: int) -> None:
        """Kill the gateway for good."""
        self._running.discard(group)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)

    def close(self) -> None:
        for group in list(self._running):
            self.kill(group)
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


if __name__ == "__main__":
    main()
