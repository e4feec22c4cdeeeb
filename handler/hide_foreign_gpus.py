"""NVENC_HIDE_FOREIGN_GPUS: a workaround for drivers that refuse NVENC to a container with one GPU of several."""

from __future__ import annotations

from pathlib import Path

import structlog

from ffmpeg_ops.engine import process
from handler.settings import Settings

log = structlog.get_logger(__name__)

# Built from hide_foreign_gpus.c into the worker's image.
LIBRARY = Path("/usr/local/lib/reelay/hide_foreign_gpus.so")


def configure(settings: Settings, library: Path = LIBRARY) -> None:
    """Make FFmpeg load the library if the settings ask for it. A missing library is logged, and jobs run without it."""
    if not settings.nvenc_hide_foreign_gpus:
        return
    if not library.is_file():
        log.warning("preload.skipped", reason=f"{library} is missing; the worker's image contains it")
        return
    process.preload(library)
    log.info("preload.enabled", library=str(library))
