"""The processes of a stack: their FFmpeg, and how they are stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.handler.support import ffmpegs


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ffmpeg_children(root: int) -> list[int]:
    """The ids of the FFmpeg processes that the process `root`, or a child of it, started."""
    return [ffmpeg for pid in (root, *children(root)) for ffmpeg in ffmpegs(pid)]


def freeze(pids: list[int]) -> None:
    """Stop processes: from now on they can only be killed, and do not end by themselves."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def kill_tree(pid: int) -> None:
    """Kill a server with SIGKILL: the master and its child."""
    for child in children(pid):
        os.kill(child, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
