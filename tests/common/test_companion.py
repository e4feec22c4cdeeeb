"""The process beside the serving one is restarted, stopped and left no orphan, like the serving one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from scripts.stack import free_port
from tests.conftest import ROOT
from tests.gateway.api.test_threads import free
from tests.servers import eventually

APP = """
import os, sys, threading, time
from pathlib import Path
from flask import Flask
from common.http_server import Server

app = Flask("app")
app.add_url_rule("/pid", "pid", lambda: str(os.getpid()))

class Companion:
    def __init__(self):
        self.stopping = threading.Event()

    def run(self):
        Path("companion.new").write_text(str(os.getpid()))
        Path("companion.new").rename("companion")
        self.stopping.wait()
        if Path("hang").exists():
            time.sleep(3600)
        Path("finished").touch()

    def request_stop(self):
        self.stopping.set()

Server(
    lambda: app, bind="127.0.0.1:" + sys.argv[1], threads=2, graceful_timeout=2, make_companion=Companion
).run()
"""


@dataclass
class Running:
    """APP in `folder`, on `port`."""

    folder: Path
    port: int
    master: subprocess.Popen[bytes]

    def serving(self) -> int:
        """The id of the serving process; 0 while there is none."""
        try:
            return int(requests.get(f"http://127.0.0.1:{self.port}/pid", timeout=30).text)
        except requests.ConnectionError:
            return 0

    def companion(self) -> int:
        """The id of the companion that was started last; 0 if none was."""
        file = self.folder / "companion"
        return int(file.read_text()) if file.exists() else 0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    master = subprocess.Popen(
        [sys.executable, "-c", APP, str(port)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = Running(tmp_path, port, master)
    try:
        eventually(lambda: server.serving() and server.companion())
        yield server
    finally:
        master.terminate()
        master.wait(30)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_each_process_is_restarted_and_the_other_stays(running: Running) -> None:
    serving, companion = running.serving(), running.companion()
    os.kill(companion, signal.SIGKILL)
    eventually(lambda: running.companion() != companion)
    assert running.serving() == serving
    companion = running.companion()
    os.kill(serving, signal.SIGKILL)
    eventually(lambda: running.serving() not in {0, serving})
    assert running.companion() == companion and is_running(companion)


@pytest.mark.slow
def test_it_finishes_what_is_in_progress_when_the_server_stops(running: Running) -> None:
    running.master.terminate()
    assert running.master.wait(30) == 0
    assert (running.folder / "finished").exists()


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [False, True])
def test_neither_process_outlives_a_master_that_was_killed(running: Running, hangs: bool) -> None:
    """Also where the companion does not return; and the address is free for a successor."""
    if hangs:
        (running.folder / "hang").touch()
    both = running.serving(), running.companion()
    running.master.kill()
    running.master.wait()
    eventually(lambda: not any(map(is_running, both)))
    assert (running.folder / "finished").exists() != hangs
    assert free(running.port)


@pytest.mark.slow
def test_it_does_not_hold_the_address(running: Running) -> None:
    """Otherwise clients would connect to a gateway that nobody serves."""
    os.kill(running.companion(), signal.SIGSTOP)
    try:
        running.master.kill()
        running.master.wait()
        eventually(lambda: free(running.port))
    finally:
        os.kill(running.companion(), signal.SIGKILL)
