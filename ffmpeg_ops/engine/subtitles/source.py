"""Reads subtitles in a confined child: a thread whose pattern meets a hostile text cannot be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ffmpeg_ops.engine import confined
from ffmpeg_ops.engine.subtitles import transfer
from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, JobTimeout

TIMEOUT_S = 60
_MEMORY_BYTES, _DATA_BYTES = 1_000_000_000, 64_000_000
_TEXT = "subtitles"


def from_file(path: Path, name: str, work: Work, warn: Callable[[str], object]) -> list[Cue]:
    """`parse.parse_file` in a child. Raises the reason of `work.stop` too, and AssetInvalid after TIMEOUT_S."""
    return _read(path, name, work, warn, is_text=False)


def from_text(text: str, name: str, work: Work) -> list[Cue]:
    """`parse.parse_text` in a child, with the same errors as `from_file`."""
    path = work.directory / _TEXT
    path.write_text(text, "utf-8", errors="replace", newline="")
    return _read(path, name, work, lambda _: None, is_text=True)


def _read(path: Path, name: str, work: Work, warn: Callable[[str], object], *, is_text: bool) -> list[Cue]:
    try:
        result = confined.run(
            transfer.read,
            {"path": str(path.absolute()), "name": name, "is_text": is_text},
            work,
            readable=[path],
            timeout_s=min(TIMEOUT_S, work.limits.timeout_s),
            memory_bytes=_MEMORY_BYTES,
            data_bytes=_DATA_BYTES,
        )
        cues, warnings = transfer.cues(result.data), result.warnings()
    except JobTimeout as error:
        work.stop.check()
        raise AssetInvalid(f"{name}: the subtitles take too long to read.") from error
    except (confined.Crashed, ValueError) as error:
        raise AssetInvalid(f"{name}: the subtitles cannot be read.", detail=repr(error)) from error
    for warning in warnings:
        warn(warning)
    return cues
