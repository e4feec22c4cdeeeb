"""S3 for tests: s3rver on loopback, which refuses tampered, expired and foreign signatures as Amazon does."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUCKET = "reelay-tests"
KEY = "S3RVER"
START_S = 30


@contextmanager
def s3_server() -> Iterator[str]:
    """Its origin, for as long as the block lasts. Skips the test where it is missing; where CI is set, that fails."""
    if not shutil.which("node") or not (HERE / "node_modules/@20minutes/s3rver").is_dir():
        reason = "s3rver is missing; with Node.js 18 or newer: npm ci --prefix tests/s3"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="reelay-s3-") as folder:
        command = ["node", str(HERE / "server.js"), folder, BUCKET]
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_S)
            port = process.stdout.readline().strip() if ready else ""
            assert port, "s3rver did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
