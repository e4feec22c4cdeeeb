"""A dispatcher that is stopped in the middle of a call until its lease has expired, and then continued."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.scene import KEY
from tests.emulators.runpod import Config, Emulator
from tests.servers import eventually


@pytest.mark.slow
def test_a_dispatcher_stopped_past_its_lease_submits_nothing_twice(tmp_path: Path) -> None:
    port, zygote, data = free_port(), Zygote(), tmp_path / "data"
    data.mkdir()
    url, headers = f"http://127.0.0.1:{port}", {"X-API-Key": KEY}
    # Without workers, what is submitted stays in the queue.
    with Emulator(Config(max_workers=0, latency_ms=0)) as runpod:
        environ = {
            **runpod.gateway_environ,
            "PUBLIC_URL": url,
            "PORT": str(port),
            "DATA_DIR": str(data),
            "X_API_KEY": KEY,
            "MIN_FREE_DISK_PERCENT": "1",
            "RUN_DISPATCHER": "false",
            "AMBIGUOUS_MS": "60000",
        }

        def start(name: str, role: str) -> int:
            return zygote.start({**environ, "ROLE": role, "LOG": str(tmp_path / name)})

        def answers() -> bool:
            try:
                return requests.get(f"{url}/health", timeout=2).ok
            except requests.RequestException:
                return False

        def attempts() -> list[Any]:
            with closing(sqlite3.connect(data / "reelay.db", timeout=10)) as connection:
                return connection.execute("SELECT state, remote_id FROM attempts").fetchall()

        try:
            start("gateway.log", "gateway")
            eventually(answers)
            sleeper = start("sleeper.log", "dispatcher")
            runpod.inject("slow", "run", seconds=0.5)
            params = {"url_video": "http://example.com/v.mp4", "url_audio": "http://example.com/a.mp3"}
            requests.post(f"{url}/video/adicionaAudio", json=params, headers=headers, timeout=10).raise_for_status()
            eventually(lambda: runpod.queue.counts()["inQueue"] == 1)
            os.killpg(sleeper, signal.SIGSTOP)
            assert attempts() == [("intent", None)]
            start("other.log", "dispatcher")
            eventually(lambda: attempts() == [("ambiguous", None)])
            os.killpg(sleeper, signal.SIGCONT)
            eventually(lambda: "dispatcher.lease_lost" in (tmp_path / "sleeper.log").read_text())
            eventually(lambda: attempts()[0][0] == "submitted")
        finally:
            zygote.close()
        [(_, remote_id)] = attempts()
        assert runpod.job(remote_id)["status"] == "IN_QUEUE"
        assert runpod.calls["run"] == 1
