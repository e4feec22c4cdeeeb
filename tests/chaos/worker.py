"""`python -m tests.chaos.worker`: the RunPod worker in short time, which dies where it is told to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ffmpeg_ops.operation import OPERATIONS, Work
from handler import __main__ as worker
from handler import events, upload
from tests.chaos import steps


def main() -> None:
    events.PERIOD_S = 0.2
    upload.PAUSES_S = (0.2,) * 50
    worker.WARM_UP_AFTER_S = 3600  # the operation of these tests copies the picture: no encoder is needed
    if "CHAOS" in os.environ:
        steps.install("worker", Path(os.environ["CHAOS"]))
    if "PRETEND" in os.environ:
        OPERATIONS["adicionaAudio"].load().__dict__["run"] = _pretend
    worker.main()


def _pretend(work: Work, params: object, assets: object) -> dict[str, Any]:
    """Makes no video, and notes it where the encodes are counted."""
    with Path(os.environ["PRETEND"]).open("a") as file:
        file.write("encode\n")
    work.output.write_bytes(b"....ftyp")
    return {"size_bytes": work.output.stat().st_size, "duration_s": 0.2}


if __name__ == "__main__":
    main()
