"""`python -m handler.http_worker`: the worker behind HTTP, for rented machines and for the local provider.

    POST   /video/<operation>   start an attempt with the worker's input: 202, or 503 `worker_busy` without a free slot
    GET    /jobs/<attempt id>   {attemptId, status: running|completed|failed|cancelled, progress, result?, error?}
    DELETE /jobs/<attempt id>   stop the attempt within two seconds
    GET    /health              slots, and the caller's address as seen here
    GET    /ready               whether the sandbox is whole, and in plain words what it does not hold here
    GET    /identity?nonce=…    with WORKER_TLS: the proof that the certificate is this worker's (wire/identity.py)

Every call but the last requires the session token, the worker's own key and an allowed address; an unset setting
matches no caller. Each authorized call is a heartbeat for the supervisor. Connections from other addresses are
accepted, so that a gateway whose address has changed gets an explanation, but a few separate threads serve them.
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
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from common import log as logs
from common.http_connection import close_if_body_unread
from common.http_server import Server
from common.settings import SettingsError, read
from ffmpeg_ops.engine import orphans, sandbox
from handler import certificate, hide_foreign_gpus, workdir
from handler.attempt import validated
from handler.runs import Busy, Runs
from handler.settings import Settings
from handler.warm_up import warm_up
from wire.envelope import parse_job_input
from wire.errors import Cancelled, JobError
from wire.identity import NONCE, proof

MAX_BODY_BYTES = 8_000_000  # what the gateway accepts, escaped and with a delivery
THREADS = 8
EXPOSED_THREADS = 32  # on rented machines, where stalled connections may hold some
CANCEL_S = 2.0
_IDENTITY = "identity"


def create_app(
    settings: Settings,
    runs: Runs | None = None,
    *,
    fingerprint: str | None = None,
    heartbeat: Callable[[], object] = lambda: None,
) -> Flask:
    """The worker's HTTP API. `app.extensions["runs"]` holds its attempts.

    `fingerprint` is that of the certificate it is served with; `heartbeat` is called for every authorized call.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    runs = app.extensions["runs"] = runs or Runs(settings)
    app.before_request(lambda: _guard(settings, heartbeat))
    app.after_request(close_if_body_unread)
    app.register_error_handler(
        HTTPException, lambda error: _problem(error.code or 500, error.name.lower().replace(" ", "_"), error.name)
    )
    app.register_error_handler(JobError, lambda error: _problem(400, error.code, error.message))

    @app.post("/video/<operation>")
    def submit(operation: str) -> tuple[Response, int] | Response:
        raw = request.get_json()
        job_input = parse_job_input(raw)
        if job_input.operation != operation:
            return _problem(400, "invalid_params", f"The input is for {job_input.operation}, the URL for {operation}.")
        validated(job_input)  # before the claim, refuse what this worker cannot run
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
        return jsonify(run.document()) if run else _unknown_attempt()

    @app.delete("/jobs/<attempt_id>")
    def cancel(attempt_id: str) -> Response:
        run = runs.get(attempt_id)
        if run is None:
            return _unknown_attempt()
        run.stop.set(Cancelled())
        if (thread := run.thread) is not None:
            thread.join(CANCEL_S)  # so that the caller can use the slot at once
        return jsonify(run.document())

    @app.get("/health")
    def health() -> Response:
        slots = {"total": settings.worker_concurrency, "busy": runs.active()}
        return jsonify({"status": "ok", "slots": slots, "peer": request.remote_addr})

    @app.get("/ready")
    def ready() -> Response:
        gaps = sandbox.gaps()
        return jsonify({"status": "ready", "sandbox": {"whole": not gaps, "gaps": list(gaps)}})

    @app.get("/identity", endpoint=_IDENTITY)
    def identity() -> Response:
        nonce = request.args.get("nonce", "")
        if fingerprint is None or not settings.session_token:
            return _problem(404, "not_found", "This worker has no certificate.")
        if not NONCE.fullmatch(nonce):
            return _problem(400, "invalid_nonce", "nonce must be 16 to 64 hexadecimal digits.")
        return jsonify({"fingerprint": fingerprint, "proof": proof(settings.session_token, nonce, fingerprint)})

    return app


def _unknown_attempt() -> Response:
    return _problem(404, "unknown_attempt", "This worker does not know the attempt.")


def _guard(settings: Settings, heartbeat: Callable[[], object]) -> Response | None:
    """Authorize the call: token, key and address must all match. An unset setting matches nothing."""
    if request.endpoint == _IDENTITY and request.method == "GET":
        return None  # the caller needs the proof before it can trust us with its token
    if not _same(settings.session_token, request.headers.get("X-Session-Token")):
        return _problem(401, "unauthorized", "X-Session-Token is missing or wrong.")
    if not _same(settings.worker_api_key, request.headers.get("X-API-Key")):
        return _problem(401, "unauthorized", "X-API-Key is missing or wrong.")
    if not _allowed(request.remote_addr, settings.allowed_ips):
        peer = request.remote_addr  # returned only to callers that know both secrets
        return _problem(403, "address_not_allowed", f"Calls from {peer} are not allowed.", peer=peer)
    heartbeat()
    return None


def _same(expected: str | None, given: str | None) -> bool:
    return bool(expected) and hmac.compare_digest((expected or "").encode(), (given or "").encode())


def _allowed(address: str | None, allowed: tuple[str, ...] | None) -> bool:
    try:
        ip = ipaddress.ip_address((address or "").removeprefix("::ffff:"))  # IPv4 as a listener on :: shows it
        return any(ip in ipaddress.ip_network(entry) for entry in allowed or ())
    except ValueError:
        return False


def _problem(status: int, code: str, detail: str, **more: Any) -> Response:
    response = jsonify({"type": "about:blank", "title": detail, "status": status, "code": code, **more})
    response.status_code = status
    response.mimetype = "application/problem+json"
    return response


def main() -> None:
    sandbox.hide()
    arguments = argparse.ArgumentParser(prog="python -m handler.http_worker")
    arguments.add_argument("--heartbeat-fd", type=int, help="the supervisor's pipe, open for writing")
    heartbeat_fd: int | None = arguments.parse_args().heartbeat_fd
    try:
        settings = read(Settings)
        _check(settings)
    except SettingsError as error:
        sys.exit(f"Wrong settings: {error}")
    logs.configure(settings.log_level)
    hide_foreign_gpus.configure(settings)
    tls = certificate.make() if settings.worker_tls else None
    Server(
        lambda: _serving_app(settings, tls.fingerprint if tls else None, heartbeat_fd),
        tls=tls.context if tls else None,
        expected=lambda address: _allowed(address, settings.allowed_ips),
        bind=f"{settings.worker_host}:{settings.worker_port}",
        threads=EXPOSED_THREADS if tls else THREADS,
        graceful_timeout=5,
        worker_exit=lambda server, worker: worker.wsgi.extensions["runs"].shut_down(),
        proc_name="reelay-worker",
    ).run()


def _serving_app(settings: Settings, fingerprint: str | None, heartbeat_fd: int | None) -> Flask:
    orphans.adopt()
    workdir.sweep(settings.work_dir)  # leftovers of a killed process
    threading.Thread(target=warm_up, daemon=True).start()
    if heartbeat_fd is None:
        return create_app(settings, fingerprint=fingerprint)
    threading.Thread(target=_exit_with_supervisor, args=(heartbeat_fd,), daemon=True).start()
    return create_app(settings, fingerprint=fingerprint, heartbeat=lambda: _beat(heartbeat_fd))


def _beat(fd: int) -> None:
    try:
        os.write(fd, b".")
    except OSError:
        pass  # full: enough heartbeats are pending; closed: _exit_with_supervisor ends this process


def _exit_with_supervisor(fd: int) -> None:
    """Kill this process when the supervisor ends: without its supervisor, the machine would never be destroyed."""
    poll = select.poll()
    poll.register(fd, 0)  # errors only: a pipe without a reader is one
    poll.poll()
    os.killpg(0, signal.SIGKILL)


def _check(settings: Settings) -> None:
    missing = [name for name in ("session_token", "worker_api_key", "allowed_ips") if not getattr(settings, name)]
    if missing:
        names = ", ".join(name.upper() for name in missing)
        raise SettingsError(f"{names}: must be set; `flask --app gateway worker-env` prints values for a local worker.")


if __name__ == "__main__":
    main()
