"""Checks the files that an operation made against its declaration, and stores them."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from ffmpeg_ops.operation import Outputs, Work
from handler.upload import upload
from wire.envelope import JobInput
from wire.errors import OutputInvalid, OutputMissing, OutputTooLarge
from wire.sniffing import is_of, sniff_file

log = structlog.get_logger(__name__)


def check(work: Work) -> dict[str, int]:
    """Check every declared output and return its size in bytes.

    Raises OutputMissing, OutputInvalid or OutputTooLarge, before anything is stored.
    """
    sizes = {name: _size(name, work.output(name)) for name in work.outputs}
    for name, media_type in work.outputs.items():
        content = sniff_file(work.output(name))
        if not is_of(content, media_type):
            raise OutputInvalid(f"The output {name} should be {media_type.name}; the worker made {content.label}.")
    total, limit = sum(sizes.values()), work.limits.max_output_bytes
    if total > limit:
        what = "The output has" if len(sizes) == 1 else "The outputs together have"
        raise OutputTooLarge(f"{what} {total} bytes; at most {limit} are allowed.")
    return sizes


def store(work: Work, job_input: JobInput, folder: Path) -> dict[str, dict[str, Any]]:
    """Upload the outputs, or move them to `folder` if the input names no uploads. Returns the new path of each."""
    delivery = job_input.delivery
    if delivery and delivery.uploads:
        for name, media_type in work.outputs.items():
            log.info("output.upload_started", output=name)
            upload(work.output(name), delivery.uploads[name], media_type.mime, work.stop)
        return {name: {} for name in work.outputs}
    folder.mkdir(parents=True, exist_ok=True)
    begin = f"{job_input.operation}-{delivery.attempt_id if delivery else work.directory.name}"
    moves = {name: folder / f"{begin}-{name}.{media_type.extension}" for name, media_type in work.outputs.items()}
    return {name: {"path": str(shutil.move(work.output(name), path))} for name, path in moves.items()}


def mismatch(declared: Outputs, uploads: Mapping[str, Any]) -> list[str]:
    """Names of outputs that only one of gateway and worker expects."""
    return sorted(set(declared) ^ set(uploads)) if uploads else []


def _size(name: str, path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise OutputMissing(f"The worker did not make the output {name}.") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
        raise OutputMissing(f"The worker made an empty output {name}.")
    return found.st_size
