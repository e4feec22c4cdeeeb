"""A command's processes that leave its group, in a worker that adopts what its commands leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ffmpeg_ops.engine import system_calls
from tests.conftest import ROOT
from tests.servers import PATIENCE_S

pytestmark = pytest.mark.skipif(system_calls.unavailable() is not None, reason=f"{system_calls.unavailable()}")

# Leaves its group and its parent three times over; every process keeps the pipes open and prints its number.
ESCAPE = """
import os, sys, time
for generation in range(3):
    if os.fork():
        time.sleep(float(sys.argv[1]) if generation == 0 else 60)
        os._exit(0)
    os.setsid()
    os.write(1, f"{os.getpid()}\\n".encode())
time.sleep(60)
"""
# Runs that beside another command and a process that is not confined, and prints what is left of each.
WORKER = """
import json, subprocess, sys, threading
from pathlib import Path
from ffmpeg_ops.engine import orphans, process
from ffmpeg_ops.operation import StopSignal, Work
from wire.errors import Cancelled, JobError
orphans.adopt()
directory, escape, how = sys.argv[1:]
mine = subprocess.Popen(["sleep", "60"])
other = Work(Path(directory))
ends = []
beside = threading.Thread(target=lambda: ends.append(
    process.run(["sleep", "1"], other, timeout_s=60, file_bytes=1, on_output=print).status))
beside.start()
pids, work = [], Work(Path(directory), stop=StopSignal())
def note(line):
    pids.append(int(line))
    if how == "stop" and len(pids) == 3:
        work.stop.set(Cancelled())
command = [sys.executable, "-I", "-S", "-c", escape, "0.2" if how == "exit" else "60"]
try:
    process.run(command, work, timeout_s=60, file_bytes=1, on_output=note)
except JobError:
    pass
left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
beside.join()
print(json.dumps({"escaped": len(pids), "left": left, "beside": ends, "mine": mine.poll()}), flush=True)
mine.kill()
"""


@pytest.mark.parametrize("how", ["exit", "stop"])
def test_what_leaves_its_group_is_dead_when_the_command_has_ended(how: str, tmp_path: Path) -> None:
    """Whether the command ends by itself or is stopped. Otherwise the pipes, held open, would delay the job for ever."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path), ESCAPE, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"escaped": 3, "left": [], "beside": [0], "mine": None}
