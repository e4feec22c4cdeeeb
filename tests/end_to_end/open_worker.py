"""`python -m tests.end_to_end.open_worker`: a RunPod worker whose FFmpeg runs without a sandbox, so that it can be counted."""

from __future__ import annotations

from ffmpeg_ops.engine import sandbox
from handler.__main__ import main

if __name__ == "__main__":
    sandbox.disable(True)
    main()
