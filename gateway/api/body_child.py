"""The process that parses and validates large bodies, started by `gateway.api.body_process`.

It has one thread, has loaded the schemas, and forks a child for each body: a child can be killed at any moment, and
gives its memory back. Both ends speak in messages: two lengths, a JSON object, and bytes.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ffmpeg_ops.operation import OPERATIONS
from gateway.api import job_request
from gateway.errors import RequestError, ValidationFailed

# Time for one body, of which a megabyte takes half a second of an idle core, and the priority of what works on it.
BODY_S, NICE = 30, 5
_LENGTHS = struct.Struct(">II")


def send(connection: socket.socket, facts: dict[str, Any], data: bytes) -> None:
    """Send a message. Raises OSError."""
    head = json.dumps(facts).encode()
    connection.sendall(_LENGTHS.pack(len(head), len(data)) + head + data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Receive a message. Raises OSError, EOFError if the other end has closed."""
    lengths = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size))
    head, data = (_exactly(connection, length) for length in lengths)
    return json.loads(head), data


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, received = memoryview(data), 0
    while received < length:
        count = connection.recv_into(view[received:])
        if not count:
            raise EOFError
        received += count
    return bytes(data)


def main() -> None:
    """Serve the socket whose number is the first argument, until it is closed or a child dies."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    os.nice(NICE)
    for operation in OPERATIONS.values():
        job_request.schema(operation)
    gc.freeze()  # children share these objects
    while _has_message(connection):
        child = os.fork()
        if not child:
            _serve_one(connection)
        if os.waitpid(child, 0)[1]:
            sys.exit("A process that checked a body died.")


def _has_message(connection: socket.socket) -> bool:
    """Wait for a message. Returns False when the gateway is gone."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except ConnectionResetError:
        return False


def _serve_one(connection: socket.socket) -> None:
    """Check one body and end the process: by the alarm if it takes too long, whatever the gateway does."""
    signal.alarm(BODY_S + 2)  # the gateway counts too
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory is short, this process ends, and not the gateway
    try:
        send(connection, *_checked(*receive(connection)))
    except (OSError, EOFError):  # the gateway is gone
        os._exit(1)
    os._exit(0)


def _checked(facts: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        request = asdict(job_request.read(facts["operation"], body, defaults=facts["defaults"]))
    except RequestError as error:
        errors = error.errors if isinstance(error, ValidationFailed) else None
        return {"refusal": error.code, "message": error.message, "errors": errors}, b""
    except Exception:
        return {"bug": traceback.format_exc()}, b""
    return request, request.pop("params").encode()
