"""`python -m gateway.dispatch`, for a gateway without a dispatcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gateway.api.live import live
from tests.gateway.conftest import PARAMS, SECRET_KEY
from tests.servers import eventually


@pytest.mark.slow
def test_a_dispatcher_alone_serves_a_gateway_and_stops_on_sigterm(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with live(folder, RUN_DISPATCHER="false", QUEUE_LIMIT_SECONDS="1") as server:
        assert server.call("GET", "/ready", key=None).json()["checks"]["dispatcher"] == "no dispatcher is running"
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PROVIDERS": "local",
            "DATA_DIR": str(folder),
            "SECRET_KEY": SECRET_KEY,
            "LOCAL_WORKER_URL": "http://127.0.0.1:9",
        }
        alone = subprocess.Popen([sys.executable, "-m", "gateway.dispatch"], cwd=tmp_path, env=environ)
        try:
            job = server.call("POST", "/video/caption?wait=60", json=PARAMS)
            assert job.json()["error"]["code"] == "queue_timeout"
            alone.send_signal(signal.SIGTERM)
            eventually(lambda: alone.poll() is not None)
            assert alone.returncode == 0
        finally:
            alone.kill()
            alone.wait()
