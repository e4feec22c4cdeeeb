"""`python -m tests.chaos.worker SOCKET`: starts RunPod workers fast, by forking a process that has imported everything.

The workers use short pauses and die at planned steps. `launch.py` asks for one.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import sandbox
from ffmpeg_ops.operation import OPERATIONS, Work
from handler import __main__ as worker
from handler import events, upload, warm_up
from tests.chaos import steps
from tests.chaos.steps import die_with_parent


def serve(environ: Mapping[str, str]) -> None:
    """Run a worker like `python -m handler`, in this process."""
    events.PERIOD_S = 0.2
    upload.PAUSES_S = (0.2,) * 50
    # It would hide the plan of the run and the count of encodes.
    sandbox.confine = lambda directory, readable=(), *, reduced=False: None
    worker.WARM_UP_AFTER_S = 3600  # never: the operation of these tests copies the video
    if "CHAOS" in environ:
        steps.install("worker", Path(environ["CHAOS"]))
    if "PRETEND" in environ:
        OPERATIONS["adicionaAudio"].load().__dict__["run"] = _pretend
    worker.main()


def _pretend(work: Work, params: object, assets: object) -> dict[str, Any]:
    """Make no video, but count as an encode."""
    with Path(os.environ["PRETEND"]).open("a") as file:
        file.write("encode\n")
    work.output("video").write_bytes(b"\0\0\0\x08ftyp")
    return {"size_bytes": work.output("video").stat().st_size, "duration_s": 0.2}


def _warm_up() -> None:
    OPERATIONS["adicionaAudio"].load()
    warm_up.skip_imports()
    import runpod.serverless  # noqa: F401

    # The SDK reads the environment at import, so each worker imports it again; its dependencies stay loaded.
    for name in [name for name in sys.modules if name.partition(".")[0] == "runpod"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # otherwise every worker copies the shared memory


def main() -> None:
    die_with_parent()
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(sys.argv[1])
        server.listen(64)
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _keep(connection)
                os._exit(0)
            connection.close()


def _keep(connection: socket.socket) -> None:
    """Start the requested worker, and report its exit status."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile() as file:
        folder, group, *variables = file.read().split("\0")
    child = os.fork()
    if child == 0:
        _become(folder, int(group), dict(variable.split("=", 1) for variable in variables), outputs)
    try:
        connection.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status) & 0xFF}\n".encode())
    except OSError:
        pass  # the requesting process was killed, and the worker with it


def _become(folder: str, group: int, environ: Mapping[str, str], outputs: list[int]) -> None:
    status = 1
    try:
        die_with_parent()
        os.setpgid(0, group)
        os.chdir(folder)
        for number, output in enumerate(outputs, 1):
            os.dup2(output, number)
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = ["worker"]
        serve(environ)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else end.code is not None
    except BaseException:
        sys.excepthook(*sys.exc_info())
    atexit._run_exitfuncs()  # the SDK's own processes end here
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Workers:
    """The process that starts workers; `command` requests one."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reelay-workers-")
        path = f"{self._folder.name}/socket"
        self.command = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")), path)
        make = [sys.executable, "-m", "tests.chaos.worker", path]
        self._process = subprocess.Popen(make, cwd=steps.ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout and self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout
        self._process.stdout.close()
        self._folder.cleanup()


if __name__ == "__main__":
    main()
