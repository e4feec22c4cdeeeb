"""`python -m handler.http_worker`: the same job code behind HTTP, for rented instances and for the local worker.

    POST   /video/<operation>   the worker's input; 202 with the attempt, 503 `worker_busy` when all slots are taken
    GET    /jobs/<attempt id>   {attemptId, status: running|completed|failed|cancelled, progress, result?, error?}
    DELETE /jobs/<attempt id>   stops it within two seconds
    GET    /health              slots and the caller's address as seen here
    GET    /identity?nonce=…    with WORKER_TLS: the proof that the certificate is this worker's (see wire/identity.py)

Every call but the last needs the session token, the worker's own key and an allowed address. What is not set lets
nobody in. Each call that was let in is a heartbeat for the supervisor, where there is one. Connections from other
addresses are answered, too, so that a gateway whose address has changed learns of it, but on a few threads apart.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import os
import select
import signal
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from common import log as logs
from common.http_server import Server, read_no_more
from common.settings import SettingsError, read
from ffmpeg_ops.engine import sandbox
from ffmpeg_ops.operation import StopSignal
from handler import certificate, workdir
from handler.attempt import run_attempt, validated
from handler.settings import Settings
from handler.warm_up import warm_up
from wire.envelope import parse_job_input
from wire.errors import Cancelled, JobError, Stopped, WorkerLost
from wire.identity import NONCE, proof

MAX_BODY_BYTES = 8_000_000  # of what a gateway takes, escaped and with a delivery
KEPT_ENDS = 1000
THREADS = 8
EXPOSED_THREADS = 32  # where others may have the gateway's address and stall, each on one thread
SHUTDOWN_S = 4.0
CANCEL_S = 2.0
_IDENTITY = "identity"


@dataclass
class Run:
    """One attempt in this process."""

    attempt_id: str
    stop: StopSignal = field(default_factory=StopSignal)
    progress: float = 0.0
    status: str = "running"
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    thread: threading.Thread | None = None

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"attemptId": self.attempt_id, "status": self.status, "progress": self.progress}
        if self.result is not None:
            document["result"] = self.result
        if self.error is not None:
            document["error"] = self.error
        return document


class Busy(Exception):
    """All slots are taken."""


class Runs:
    """The attempts of this process: at most `slots` at once, the same attempt never twice, the last ends remembered."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def submit(self, attempt_id: str, raw_input: object) -> Run:
        """Start the attempt, or answer the one that already has this id. Raises Busy."""
        with self._lock:
            if attempt_id in self._runs:
                return self._runs[attempt_id]
            if self.active() >= self._settings.worker_concurrency:
                raise Busy
            run = self._runs[attempt_id] = Run(attempt_id)
            self._forget_old()
        run.thread = threading.Thread(target=self._work, args=(run, raw_input), name=attempt_id, daemon=True)
        run.thread.start()
        return run

    def get(self, attempt_id: str) -> Run | None:
        return self._runs.get(attempt_id)

    def active(self) -> int:
        return sum(run.status == "running" for run in list(self._runs.values()))

    def shut_down(self) -> None:
        """Stop everything and give the attempts a moment to tell the gateway, so that they are tried again at once."""
        running = [run for run in list(self._runs.values()) if run.status == "running"]
        for run in running:
            run.stop.set(WorkerLost("The worker was shut down."))
        for run in running:
            if (thread := run.thread) is not None:
                thread.join(SHUTDOWN_S)

    def _work(self, run: Run, raw_input: object) -> None:
        def on_progress(fraction: float) -> None:
            run.progress = fraction

        try:
            run.result = run_attempt(raw_input, self._settings, run.stop, on_progress)
            run.progress, run.status = 1.0, "completed"
        except JobError as error:
            run.error = error.to_wire()  # not the error: its traceback holds all that the attempt had in memory
            run.status = "cancelled" if isinstance(error, Stopped) else "failed"
        run.stop, run.thread = StopSignal(), None

    def _forget_old(self) -> None:
        ended = [key for key, run in self._runs.items() if run.status != "running"]
        for key in ended[: max(0, len(ended) - KEPT_ENDS)]:
            del self._runs[key]


def create_app(
    settings: Settings,
    runs: Runs | None = None,
    *,
    fingerprint: str | None = None,
    heartbeat: Callable[[], object] = lambda: None,
) -> Flask:
    """The worker's HTTP face. `app.extensions["runs"]` holds its attempts.

    `fingerprint` is that of the certificate it is served with; `heartbeat` is called for every caller that is let in.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    runs = app.extensions["runs"] = runs or Runs(settings)
    app.before_request(lambda: _guard(settings, heartbeat))
    app.after_request(read_no_more)
    app.register_error_handler(HTTPException, lambda error: _problem(error.code or 500, _code_of(error), error.name))
    app.register_error_handler(JobError, lambda error: _problem(400, error.code, error.message))

    @app.post("/video/<operation>")
    def submit(operation: str) -> tuple[Response, int] | Response:
        raw = request.get_json()
        job_input = parse_job_input(raw)
        if job_input.operation != operation:
            return _problem(
                400, "invalid_params", f"The input is for {job_input.operation}, the address for {operation}."
            )
        validated(job_input)  # what this worker cannot run is refused before anybody claims it
        attempt_id = job_input.delivery.attempt_id if job_input.delivery else uuid.uuid4().hex
        try:
            run = runs.submit(attempt_id, raw)
        except Busy:
            response = _problem(503, "worker_busy", "All slots of this worker are taken.")
            response.headers["Retry-After"] = "1"
            return response
        return jsonify(run.document()), 202

    @app.get("/jobs/<attempt_id>")
    def show(attempt_id: str) -> Response:
        run = runs.get(attempt_id)
        return (
            jsonify(run.document())
            if run
            else _problem(404, "unknown_attempt", "This worker does not know the attempt.")
        )

    @app.delete("/jobs/<attempt_id>")
    def cancel(attempt_id: str) -> Response:
        run = runs.get(attempt_id)
        if run is None:
            return _problem(404, "unknown_attempt", "This worker does not know the attempt.")
        run.stop.set(Cancelled())
        if (thread := run.thread) is not None:
            thread.join(CANCEL_S)  # so that whoever cancels may use the slot at once
        return jsonify(run.document())

    @app.get("/health")
    def health() -> Response:
        slots = {"total": settings.worker_concurrency, "busy": runs.active()}
        return jsonify({"status": "ok", "slots": slots, "peer": request.remote_addr})

    @app.get("/identity", endpoint=_IDENTITY)
    def identity() -> Response:
        nonce = request.args.get("nonce", "")
        if fingerprint is None or not settings.session_token:
            return _problem(404, "not_found", "This worker has no certificate.")
        if not NONCE.fullmatch(nonce):
            return _problem(400, "invalid_nonce", "nonce must be 16 to 64 hexadecimal digits.")
        return jsonify({"fingerprint": fingerprint, "proof": proof(settings.session_token, nonce, fingerprint)})

    return app


def _guard(settings: Settings, heartbeat: Callable[[], object]) -> Response | None:
    """All three or nothing: token, key, address. An unset value matches nobody."""
    if request.endpoint == _IDENTITY and request.method == "GET":
        return None  # it is asked before the caller may trust us with any of the three
    if not _same(settings.session_token, request.headers.get("X-Session-Token")):
        return _problem(401, "unauthorized", "X-Session-Token is missing or wrong.")
    if not _same(settings.worker_api_key, request.headers.get("X-API-Key")):
        return _problem(401, "unauthorized", "X-API-Key is missing or wrong.")
    if not _allowed(request.remote_addr, settings.allowed_ips):
        peer = request.remote_addr  # only told to who knows both secrets
        return _problem(403, "address_not_allowed", f"Calls from {peer} are not allowed.", peer=peer)
    heartbeat()
    return None


def _same(expected: str | None, given: str | None) -> bool:
    return bool(expected) and hmac.compare_digest((expected or "").encode(), (given or "").encode())


def _allowed(address: str | None, allowed: tuple[str, ...] | None) -> bool:
    try:
        ip = ipaddress.ip_address((address or "").removeprefix("::ffff:"))  # how a listener on :: shows IPv4
        return any(ip in ipaddress.ip_network(entry) for entry in allowed or ())
    except ValueError:
        return False


def _code_of(error: HTTPException) -> str:
    return error.name.lower().replace(" ", "_")


def _problem(status: int, code: str, detail: str, **more: Any) -> Response:
    response = jsonify({"type": "about:blank", "title": detail, "status": status, "code": code, **more})
    response.status_code = status
    response.mimetype = "application/problem+json"
    return response


def main() -> None:
    sandbox.hide()
    arguments = argparse.ArgumentParser(prog="python -m handler.http_worker")
    arguments.add_argument("--heartbeat-fd", type=int, help="a pipe of the supervisor's, open for writing")
    heartbeat_fd: int | None = arguments.parse_args().heartbeat_fd
    try:
        settings = read(Settings)
        _check(settings)
    except SettingsError as error:
        sys.exit(f"Wrong settings: {error}")
    logs.configure(settings.log_level)
    shown = certificate.make() if settings.worker_tls else None
    Server(
        lambda: _serving_app(settings, shown.fingerprint if shown else None, heartbeat_fd),
        tls=shown.context if shown else None,
        expected=lambda address: _allowed(address, settings.allowed_ips),
        bind=f"{settings.worker_host}:{settings.worker_port}",
        threads=EXPOSED_THREADS if shown else THREADS,
        graceful_timeout=5,
        worker_exit=lambda server, worker: worker.wsgi.extensions["runs"].shut_down(),
        proc_name="reelay-worker",
    ).run()


def _serving_app(settings: Settings, fingerprint: str | None, heartbeat_fd: int | None) -> Flask:
    workdir.sweep(settings.work_dir)  # what a killed process before this one left
    threading.Thread(target=warm_up, daemon=True).start()
    if heartbeat_fd is None:
        return create_app(settings, fingerprint=fingerprint)
    threading.Thread(target=_die_with_reader, args=(heartbeat_fd,), daemon=True).start()
    return create_app(settings, fingerprint=fingerprint, heartbeat=lambda: _beat(heartbeat_fd))


def _beat(fd: int) -> None:
    try:
        os.write(fd, b".")
    except OSError:
        pass  # full: beats enough are on their way; closed: see below


def _die_with_reader(fd: int) -> None:
    """Without a supervisor nothing would end this machine: then nothing is served either."""
    poll = select.poll()
    poll.register(fd, 0)  # errors alone, which a pipe without a reader is
    poll.poll()
    os.killpg(0, signal.SIGKILL)


def _check(settings: Settings) -> None:
    missing = [name for name in ("session_token", "worker_api_key", "allowed_ips") if not getattr(settings, name)]
    if missing:
        names = ", ".join(name.upper() for name in missing)
        raise SettingsError(f"{names}: must be set; `flask --app gateway worker-env` prints values for a local worker.")


if __name__ == "__main__":
    main()
