"""Fetches the assets of an attempt into its private directory."""

from __future__ import annotations

import contextvars
import errno
import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import BinaryIO

import requests
import structlog

from common import safe_http
from ffmpeg_ops import share_links
from ffmpeg_ops.assets import NamedAsset
from ffmpeg_ops.operation import Work
from handler import http_client
from wire.errors import (
    AssetEmpty,
    AssetForbidden,
    AssetInvalid,
    AssetNotFound,
    AssetTooLarge,
    AssetUnavailable,
    JobError,
    Superseded,
    WorkerDiskFull,
)
from wire.sniffing import HTML, sniff_file

log = structlog.get_logger(__name__)

AT_ONCE = 4
# Pauses before the retries, unless the server states how long to wait.
PAUSES_S: tuple[float, ...] = (1, 2)
# A server that is busy, such as a gateway with too many transfers, is asked for BUSY_S, however short a pause it wants.
BUSY_S = 60.0
PAUSES_BUSY_S: tuple[float, ...] = (1, 2, 4, 8, 15)
# 423 and 425: some hosts send them while they still make the file.
_BUSY = frozenset({423, 425, 429, 503})
_MIN_RETRY_AFTER_S, _MAX_RETRY_AFTER_S = 1.0, 30.0


def fetch_all(
    assets: Sequence[NamedAsset],
    work: Work,
    *,
    deadline_s: float,
    allow_origins: Collection[str],
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Path]:
    """Fetch `assets` within `deadline_s` seconds, AT_ONCE at a time and equal URLs once; return the files by path.

    `progress` takes a fraction of 0 to 1. The first failure stops the other downloads and is raised: a JobError whose
    message begins with the asset's path. No message contains a URL, which may contain a password.
    """
    first_path: dict[str, str] = {}
    for asset in assets:
        first_path.setdefault(asset.url, asset.path)
    pool = _Pool(work, len(first_path), progress)
    ends_at = time.monotonic() + deadline_s
    files = {url: work.directory / f"asset-{number}" for number, url in enumerate(first_path, 1)}
    pool.run([_Download(url, path, files[url], pool, ends_at, allow_origins) for url, path in first_path.items()])
    return {asset.path: files[asset.url] for asset in assets}


class _Pool:
    """The downloads of one attempt, with their shared threads, size limit and progress."""

    def __init__(self, work: Work, number: int, progress: Callable[[float], None]) -> None:
        self.limits, self.stop = work.limits, work.stop
        self._failed = False
        self._number, self._progress = number, progress
        self._lock = threading.Lock()
        self._received: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def run(self, downloads: Sequence[_Download]) -> None:
        """Run all downloads. Raises the first error without waiting for the others, which then stop by themselves."""
        waiting: queue.SimpleQueue[_Download] = queue.SimpleQueue()
        ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for download in downloads:
            waiting.put(download)

        def work() -> None:
            while True:
                try:
                    waiting.get_nowait().run()
                except queue.Empty:
                    return None
                except BaseException as error:
                    return ended.put(error)
                ended.put(None)

        for _ in range(min(AT_ONCE, len(downloads))):
            context = contextvars.copy_context()  # so that log lines name the attempt
            threading.Thread(target=context.run, args=(work,), name="fetch", daemon=True).start()
        for _ in downloads:
            error = ended.get()
            if error is not None:
                self._failed = True
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame: a cycle that would keep connections open

    def check(self) -> None:
        """Raise if the attempt was stopped or another download has failed."""
        self.stop.check()
        if self._failed:
            raise Superseded

    def expect(self, path: str, size: int) -> None:
        """Record that asset `path` has `size` bytes. Raises AssetTooLarge when the sum exceeds the job's limit."""
        with self._lock:
            self._sizes[path] = size
            self._check(path, sum(self._sizes.values()))

    def received(self, path: str, size: int) -> None:
        """Record that `size` bytes of asset `path` have arrived. Raises AssetTooLarge like `expect`."""
        with self._lock:
            self._received[path] = size
            self._check(path, sum(self._received.values()))
            fraction = self._fraction()
        self._progress(fraction)

    def done(self, path: str, size: int) -> None:
        """Record that asset `path` is complete, with `size` bytes."""
        with self._lock:
            self._sizes[path] = size
        self.received(path, size)

    def _check(self, path: str, size: int) -> None:
        limit = self.limits.max_job_assets_bytes
        if size > limit:
            raise AssetTooLarge(f"{path}: the job's files are larger than {limit} bytes together.")

    def _fraction(self) -> float:
        """Progress by bytes if every size is known, otherwise with equal weight for each asset."""
        if len(self._sizes) == self._number:
            return sum(self._received.values()) / max(1, sum(self._sizes.values()))
        shares = (self._received.get(path, 0) / max(1, size) for path, size in self._sizes.items())
        return sum(min(1.0, share) for share in shares) / self._number


class _Download:
    def __init__(
        self, url: str, path: str, file: Path, pool: _Pool, ends_at: float, allow_origins: Collection[str]
    ) -> None:
        self._url, self._path, self._file = url, path, file
        self._pool, self._ends_at, self._allow_origins = pool, ends_at, allow_origins

    def run(self) -> None:
        """Fetch the file. Raises a JobError whose message names the param.

        Server errors and broken connections are retried from the first byte; downloads that are too slow are not.
        """
        waited_s = 0.0
        for failed in itertools.count():
            self._pool.check()
            try:
                self._try()
                return
            except AssetUnavailable as error:
                pause = _pause_s(error.__cause__, failed, waited_s)
                if pause is None or time.monotonic() + pause > self._ends_at:
                    raise
                log.warning(
                    "asset.fetch_failed", param=self._path, tries=failed + 1, reason=error.message, detail=error.detail
                )
            waited_s += pause
            self._pool.stop.wait(pause)

    def _try(self) -> None:
        name, limit = self._path, self._pool.limits.max_asset_bytes
        try:
            with self._file.open("wb") as file:
                done = safe_http.download(
                    self._url,
                    _Counted(file, lambda size: self._pool.received(name, size)),
                    max_bytes=limit,
                    deadline_s=self._ends_at - time.monotonic(),
                    allow_origins=self._allow_origins,
                    check=self._pool.check,
                    expect=lambda size: self._pool.expect(name, size),
                )
        except safe_http.ForbiddenUrl as error:
            raise AssetForbidden(
                f"{name}: the URL may not be fetched: {error}. Upload the file with POST /files and use the URL "
                "that it returns."
            ) from error
        except safe_http.TooLarge as error:
            raise AssetTooLarge(f"{name}: the file is larger than {limit} bytes.") from error
        except safe_http.Trickles as error:
            raise AssetUnavailable(f"{name}: the server sends the file too slowly.") from error
        except safe_http.TooSlow as error:
            raise AssetUnavailable(f"{name}: the file did not arrive in time.") from error
        except requests.HTTPError as error:
            raise _status_error(name, error) from error
        except requests.exceptions.SSLError as error:
            message = f"{name}: the server's certificate is not trusted, or the encrypted connection failed."
            raise AssetUnavailable(message, detail=http_client.error_classes(error)) from error
        except requests.RequestException as error:
            raise AssetUnavailable(
                f"{name}: the URL could not be reached.", detail=http_client.error_classes(error)
            ) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise WorkerDiskFull from error
            raise
        if done.size_bytes == 0:
            raise AssetEmpty(f"{name}: the file is empty.")
        if sniff_file(self._file) == HTML:
            raise AssetInvalid(f"{name}: {share_links.explain(self._url)}")
        self._pool.done(name, done.size_bytes)
        log.info("asset.fetched", param=name, size_bytes=done.size_bytes, content_type=done.content_type)


class _Counted:
    """A file that reports how much has been written to it."""

    def __init__(self, file: BinaryIO, report: Callable[[int], None]) -> None:
        self._file, self._report, self._size = file, report, 0

    def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._report(self._size)
        self._file.write(chunk)


def _pause_s(cause: BaseException | None, failed: int, waited_s: float) -> float | None:
    """How long to wait after `failed` earlier failures with pauses of `waited_s` in all; None to give up."""
    if isinstance(cause, safe_http.TooSlow):
        return None  # another try would be as slow, on a machine that is billed by the second
    response = cause.response if isinstance(cause, requests.HTTPError) else None
    if response is None or response.status_code not in _BUSY:
        return PAUSES_S[failed] if failed < len(PAUSES_S) else None
    asked = response.headers.get("Retry-After", "")
    pause = PAUSES_BUSY_S[min(failed, len(PAUSES_BUSY_S) - 1)]
    if asked.isascii() and asked.isdecimal():
        pause = max(_MIN_RETRY_AFTER_S, min(float(asked), _MAX_RETRY_AFTER_S))
    return pause if waited_s + pause <= BUSY_S else None


def _status_error(name: str, error: requests.HTTPError) -> JobError:
    status = error.response.status_code
    message = f"{name}: the server returned HTTP status {status}."
    if status >= 500 or status in {408, *_BUSY}:
        return AssetUnavailable(message)
    return AssetNotFound(message)
