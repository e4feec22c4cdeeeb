"""Uploads an output with a presigned PUT request, retried a few times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import requests
import structlog

from ffmpeg_ops.operation import StopSignal
from handler import http_client
from wire.envelope import Upload
from wire.errors import OutputTooLarge, StorageFull, Superseded, UploadFailed, WorkerFault

log = structlog.get_logger(__name__)

# Pauses before the retries. Long, because a failed upload wastes a finished encode.
PAUSES_S: tuple[float, ...] = (1, 2, 4, 8, 15, 15, 15, 15, 15)
# A full disk seldom empties within a minute.
PAUSES_FULL_S: tuple[float, ...] = (1, 2)
TIMEOUT_S = (10, 60)
_CHUNK_BYTES = 256 * 1024


def upload(path: Path, target: Upload, mime: str, stop: StopSignal) -> None:
    """Send the file with PUT. Raises OutputTooLarge, Superseded, StorageFull, or UploadFailed when no try succeeds."""
    size = path.stat().st_size
    if size > target.max_bytes:
        raise OutputTooLarge(f"The file has {size} bytes; at most {target.max_bytes} are allowed.")
    for failed in itertools.count():
        error = _put(path, size, target, mime, stop)
        if error is None:
            return
        pauses = PAUSES_FULL_S if isinstance(error, StorageFull) else PAUSES_S
        log.warning("output.upload_failed", tries=failed + 1, reason=error.code, detail=error.detail)
        if failed >= len(pauses):
            raise error
        stop.wait(pauses[failed])


def _put(path: Path, size: int, target: Upload, mime: str, stop: StopSignal) -> WorkerFault | None:
    """Make one try. Returns the error of one that may be repeated; raises those after which that is useless."""
    headers = {"Content-Type": mime, **target.headers, "Content-Length": str(size)}
    try:
        with http_client.session() as http:
            response = http.put(
                target.url, data=_Body(path, size, stop), headers=headers, timeout=TIMEOUT_S, allow_redirects=False
            )
    except requests.RequestException as error:
        stop.check()  # a stop of the attempt also breaks the connection
        return UploadFailed(detail=http_client.error_classes(error))
    status, text = response.status_code, response.text[:300]
    if status == 409:
        raise Superseded
    if status == 507:
        return StorageFull(detail=text)
    if status >= 500 or status in {408, 425, 429}:
        return UploadFailed(detail=f"status {status}: {text}")
    if status >= 300:
        raise UploadFailed(detail=f"status {status}: {text}")
    log.info("output.uploaded", size_bytes=size)
    return None


class _Body:
    """A file as a request body of known length that stops being read when the attempt is stopped."""

    def __init__(self, path: Path, size: int, stop: StopSignal) -> None:
        self._path, self._size, self._stop = path, size, stop

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                self._stop.check()
                yield chunk
