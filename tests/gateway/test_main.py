"""`python -m gateway` and `flask --app gateway`, before they serve or do anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from gateway import __main__ as gateway
from gateway.__main__ import prepare
from gateway.api import waiting_room
from gateway.dispatch import loop
from gateway.providers.base import Refused
from gateway.settings import Settings
from tests.conftest import ROOT
from tests.end_to_end.processes import children
from tests.gateway.api.live import live
from tests.gateway.conftest import PARAMS, REQUEST, Wire
from tests.gateway.dispatch.test_link import open_link
from tests.servers import eventually
from tests.small_disk import small_disk
from wire.errors import InvalidParams

SERVE = ("gateway",)
KEYS = ("flask", "--app", "gateway", "keys", "list")


def run(folder: Path, words: tuple[str, ...], **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), **environ}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("words", [SERVE, KEYS], ids=["serve", "keys"])
@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "PROVIDERS"),
        ({"PROVIDERS": "local", "PORT": "x"}, "PORT"),
        ({"PROVIDERS": "local", "DATA_DIR": "/proc/reelay"}, "DATA_DIR"),
        ({"PROVIDERS": "local", "DATA_DIR": "/dev/null"}, "DATA_DIR"),
    ],
    ids=["missing", "wrong", "read-only folder", "no folder"],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path, words: tuple[str, ...], environ: dict[str, str], named: str
) -> None:
    done = run(tmp_path, words, **environ)
    assert done.returncode == 1
    assert "Wrong settings" in done.stderr and named in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, SERVE, PROVIDERS="local", DATABASE_URL="sqlite:////dev/null/x.db")
    assert done.returncode == 1
    assert done.stderr == "The database cannot be used: unable to open database file\n"


@pytest.mark.slow
def test_a_read_only_data_folder_is_one_line(tmp_path: Path) -> None:
    data, settings = tmp_path / "data", {"PROVIDERS": "local"}
    with small_disk(data, "8m"):
        prepare(Settings(providers=("local",), data_dir=data))
        subprocess.run(["mount", "-o", "remount,ro", data], check=True)
        for words in (SERVE, KEYS):
            done = run(tmp_path, words, **settings)
            assert done.returncode == 1
            assert (
                done.stderr.strip().removeprefix("Error: ")
                == f"Wrong settings: DATA_DIR: {data} cannot be used: Read-only file system."
            )


@pytest.mark.slow
def test_a_read_only_database_is_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare(Settings(providers=("local",), data_dir=data))
    file = data / "reelay.db"
    if subprocess.run(["mount", "--bind", file, file], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", file], check=True)
        done = run(tmp_path, SERVE, PROVIDERS="local", X_API_KEY="a key of the operator's own")
    finally:
        subprocess.run(["umount", "--lazy", file], check=True)
    assert done.returncode == 1
    assert done.stderr.startswith("The database cannot be used: ") and done.stderr.count("\n") == 1, done.stderr


def test_no_connection_is_open_when_the_server_forks(settings: Settings) -> None:
    prepare(replace(settings, x_api_key="a key of the operator's own"))
    # one is open only while it is being listed
    opened = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if os.path.lexists(path)}
    assert not [path for path in opened if path.startswith(str(settings.data_dir))]


def test_the_server_s_threads_keep_python_s_lock_only_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a short request waits for every thread that computes, again and again."""
    seen: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", seen.append)
    monkeypatch.setattr(gateway, "serve", lambda *_: None)
    services = SimpleNamespace(body_process=SimpleNamespace(start=lambda: None))
    gateway._start(Mock(), SimpleNamespace(wsgi=SimpleNamespace(extensions={"reelay": services})))
    assert seen == [gateway.SWITCH_S] and gateway.SWITCH_S < 0.001


def test_the_two_processes_notify_each_other(wire: Wire, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are in this process here. The database is polled so rarely that only the link explains what happens."""
    monkeypatch.setattr(loop, "IDLE_S", 3600)
    monkeypatch.setattr(waiting_room, "LOOK_S", 3600)
    serving, dispatching = wire(), wire()
    monkeypatch.setattr(gateway.Services, "wire", lambda _: dispatching)
    with open_link() as link, ThreadPoolExecutor(1) as pool:
        gateway.serve(serving, link)
        running = threading.Thread(target=gateway.dispatcher(settings, link).run)
        running.start()
        eventually(lambda: dispatching.store.lease_expires_at(loop.HEARTBEAT_LEASE))
        dispatching.provider.script("submit", Refused(InvalidParams("no")))
        job = serving.jobs.create("key_a", REQUEST)
        (ended,) = pool.submit(serving.waiting_room.wait, [job], 60).result()
        assert ended.status == "failed"
        eventually(lambda: b'reelay_jobs_ended_total{operation="caption",' in serving.metrics.text())
        assert b"reelay_jobs_ended_total{" not in dispatching.metrics.text(), "it would be counted twice"
        dispatching.dispatcher.request_stop()
        running.join()


@pytest.mark.slow
def test_a_dispatcher_that_is_killed_is_replaced_while_requests_are_served(tmp_path: Path) -> None:
    with live(tmp_path / "data", QUEUE_LIMIT_SECONDS="1") as server:
        assert server._process is not None
        both = children(server._process.pid)
        (serving,) = filter(children, both)  # it has the process that checks large bodies
        (dispatching,) = {*both} - {serving}
        os.kill(dispatching, signal.SIGKILL)
        job = server.call("POST", "/video/caption?wait=60", json=PARAMS)
        assert (job.status_code, job.json()["error"]["code"]) == (200, "queue_timeout")
        assert serving in children(server._process.pid) and dispatching not in children(server._process.pid)
        _, secret = server.services.keys.create("prometheus", ("metrics",))
        eventually(lambda: "reelay_jobs_ended_total{" in server.call("GET", "/metrics", key=secret).text)
