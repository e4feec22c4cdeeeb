"""A dispatcher that is stopped in the middle of a call until its lease has expired, and then continued."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.scenery import insist, rows, settings
from tests.emulators.runpod import Config, Emulator
from tests.servers import eventually


@pytest.mark.slow
def test_a_dispatcher_stopped_past_its_lease_submits_nothing_twice(tmp_path: Path) -> None:
    port, zygote, data = free_port(), Zygote(), tmp_path / "data"
    data.mkdir()
    url = f"http://127.0.0.1:{port}"
    # Without workers, what is submitted stays in the queue.
    with Emulator(Config(max_workers=0, latency_ms=0)) as runpod:
        environ = {
            **runpod.gateway_environ,
            **settings(port, data),
            "RUN_DISPATCHER": "false",
            "AMBIGUOUS_MS": "60000",
        }

        def start(name: str, role: str) -> int:
            return zygote.start({**environ, "ROLE": role, "LOG": str(tmp_path / name)})

        def attempts() -> list[Any]:
            return rows(data, "SELECT state, remote_id FROM attempts")

        try:
            start("gateway.log", "gateway")
            insist("GET", f"{url}/health")
            sleeper = start("sleeper.log", "dispatcher")
            runpod.inject("slow", "run", seconds=0.5)
            params = {"url_video": "http://example.com/v.mp4", "url_audio": "http://example.com/a.mp3"}
            insist("POST", f"{url}/video/adicionaAudio", json=params)
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
