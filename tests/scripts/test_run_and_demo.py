"""`make demo`, `make run` and `make setup` report what is wrong and leave nothing running."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.demo import JOBS
from scripts.stack import Stack, StackError, free_port
from tests.conftest import ROOT
from tests.servers import PATIENCE_S, eventually

pytestmark = pytest.mark.slow


def tools(tmp_path: Path, *names: str, **scripts: str) -> str:
    """A PATH with the named programs of this machine only, and the given scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or "/missing")
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_demo_exits_non_zero_with_the_reason_when_a_job_fails(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": tools(tmp_path, "setpriv")}
    command = [sys.executable, "-m", "scripts.demo", "--output", str(tmp_path / "videos")]
    demo = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert demo.returncode == 1
    assert re.search(r"The demo failed: \w+ ended as failed: worker_error: ff\w+ is not installed", demo.stdout)
    for port in re.findall(r"Gateway at http://127\.0\.0\.1:(\d+), worker at port (\d+)", demo.stdout)[0]:
        assert not listens(int(port))


@pytest.mark.parametrize("runpod_fails", [False, True])
def test_the_cloud_demo_makes_every_video_and_leaves_nothing_running(runpod_fails: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.demo", "--cloud", *(["--fail", "runpod"] if runpod_fails else [])]
    command += ["--output", str(tmp_path / "videos")]
    demo = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert demo.returncode == 0, demo.stdout
    for operation in JOBS:
        assert re.search(rf"/videos/{operation}\.mp4: .*, \$0\.\d{{6}} and at most \$0\.\d{{6}} idle", demo.stdout)
    counted = r"RunPod refused (\d+) times" if runpod_fails else r"The gateway made (\d+) calls to RunPod"
    [calls] = re.findall(counted, demo.stdout)
    assert int(calls) >= (1 if runpod_fails else len(JOBS))
    rented = re.search(r"\b[12] were rented and paid for \d+ s in all; none is left\.", demo.stdout)
    assert bool(rented) is runpod_fails
    for port in re.findall(r"http://127\.0\.0\.1:(\d+)", demo.stdout):
        assert not listens(int(port))


def test_run_prints_a_working_curl_command_and_stops_both_on_a_signal(tmp_path: Path) -> None:
    ports = {"PORT": str(free_port()), "WORKER_PORT": str(free_port())}
    environ = {**os.environ, **ports, "DATA_DIR": str(tmp_path / "data"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.run"], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        greeting = "".join(iter(run.stdout.readline, "Ctrl-C stops both.\n"))
        try:
            curl = next(line for line in greeting.splitlines() if line.startswith("curl"))
            answer = subprocess.run(["sh", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=60).stdout
        finally:
            run.send_signal(signal.SIGTERM)
            run.wait(PATIENCE_S)
    assert '"status":"completed"' in answer
    assert f"http://127.0.0.1:{ports['PORT']}" in greeting
    assert not any(listens(int(port)) for port in ports.values())


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stack = Stack(tmp_path / "data", tmp_path / "logs", port=taken.getsockname()[1])
        with pytest.raises(StackError, match="port .* is in use; set PORT"), stack:
            pass
    assert not listens(stack.worker_port)


def test_wrong_settings_are_reported(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data", tmp_path / "logs", environ={"THREADS": "none", "MAX_WAIT_SECONDS": "-1"})
    with pytest.raises(Exception, match="(?s)MAX_WAIT_SECONDS.*THREADS|THREADS.*MAX_WAIT_SECONDS"), stack:
        pass


def test_the_stack_dies_with_its_starter(tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    ports = {"PORT": str(free_port()), "WORKER_PORT": str(free_port())}
    environ = {**os.environ, **ports, "DATA_DIR": str(tmp_path / "data")}
    with subprocess.Popen([sys.executable, "-m", "scripts.run"], cwd=ROOT, env=environ, stdout=subprocess.PIPE) as run:
        eventually(lambda: all(listens(int(port)) for port in ports.values()))
        run.kill()
    eventually(lambda: not any(listens(int(port)) for port in ports.values()))


def test_setup_says_what_to_install_without_root(tmp_path: Path) -> None:
    path = tools(tmp_path, "sh", "dirname", "mktemp", "rm", "tail", "grep", id="echo 1000")
    setup = subprocess.run(["sh", ROOT / "scripts/setup.sh"], env={"PATH": path}, capture_output=True, text=True)
    assert setup.returncode == 1
    assert "FFmpeg with libx264 and libass is missing" in setup.stderr
    assert "apt-get install ffmpeg" in setup.stderr
