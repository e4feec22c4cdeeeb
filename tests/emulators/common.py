"""What the stand-ins have in common: controls over HTTP, and how they are run by hand."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request

from tests.emulators.runpod.faults import Fault, FaultList


class Emulator(Protocol):
    """As much of a stand-in as is needed here."""

    home: Path

    @property
    def config(self) -> Any: ...
    @property
    def faults(self) -> FaultList[Any]: ...
    @property
    def calls(self) -> Counter[str]: ...
    @property
    def gateway_environ(self) -> Mapping[str, str]: ...
    def inject(self, kind: str, on: str, **more: Any) -> Fault: ...
    def configure(self, **changes: Any) -> None: ...
    def reset_calls(self) -> None: ...


def controls(emulator: Emulator, fixed: frozenset[str]) -> Blueprint:
    """At `/_control`: `faults`, `calls` and `config`, of which the fields `fixed` stay as they are."""
    api = Blueprint("control", __name__, url_prefix="/_control")

    @api.errorhandler(TypeError)
    @api.errorhandler(ValueError)
    @api.errorhandler(KeyError)
    def wrong(error: Exception) -> tuple[Response, int]:
        return jsonify(error=str(error)), 400

    @api.post("/faults")
    def inject() -> tuple[Response, int]:
        return jsonify(told(emulator.inject(**request.get_json()))), 201

    @api.delete("/faults")
    def no_faults() -> tuple[str, int]:
        emulator.faults.clear()
        return "", 204

    @api.delete("/calls")
    def no_calls() -> tuple[str, int]:
        emulator.reset_calls()
        return "", 204

    @api.patch("/config")
    def configure() -> tuple[str, int]:
        changes = request.get_json()
        for name, value in changes.items():
            if name in fixed or not _alike(value, getattr(emulator.config, name, None)):
                raise ValueError(f"not to be set while it runs, or not to this: {name}")
        emulator.configure(**changes)
        return "", 204

    return api


def told(fault: Fault) -> dict[str, Any]:
    return {field.name: getattr(fault, field.name) for field in dataclasses.fields(fault) if field.init}


def _alike(value: object, present: object) -> bool:
    if isinstance(present, int | float) and not isinstance(present, bool):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(present) or (isinstance(present, tuple) and isinstance(value, list))


def parser(name: str, description: str, port: int, key: str) -> argparse.ArgumentParser:
    """Of the command line, with what every stand-in can be told."""
    made = argparse.ArgumentParser(
        prog=f"python -m tests.emulators.{name}",
        description=f"{description} POST /_control/faults makes it misbehave.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--port", type=int, default=port)
    made.add_argument("--key", default=key, help="what callers must send as Bearer")
    made.add_argument("--home", type=Path, help="keep logs and folders of the workers here")
    made.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the workers, as FETCH_ALLOW_ORIGINS"
    )
    return made


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `parser` has asked for, as fields of a Config."""
    return {
        "port": arguments.port,
        "api_key": arguments.key,
        "home": arguments.home and arguments.home.resolve(),
        "env": dict(pair.partition("=")[::2] for pair in arguments.env),
    }


def until_stopped(emulator: Emulator) -> None:
    """Tell how a gateway is to be set up, and wait for Ctrl-C."""
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    for name, value in emulator.gateway_environ.items():
        print(f"export {name}={value}")
    print(f"# workers log to {emulator.home}; Ctrl-C ends it", flush=True)
    stop.wait()
