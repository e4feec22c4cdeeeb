"""Fetches the assets of an attempt into its private directory."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Collection
from pathlib import Path

import requests
import structlog

from common import safe_http
from ffmpeg_ops.operation import Work
from handler import calls, share_links
from wire.errors import (
    AssetEmpty,
    AssetForbidden,
    AssetInvalid,
    AssetNotFound,
    AssetTooLarge,
    AssetUnavailable,
    JobError,
    WorkerDiskFull,
)
from wire.sniffing import HTML, sniff_file

log = structlog.get_logger(__name__)

# Before each next try, unless the server says how long to wait.
PAUSES_S: tuple[float, ...] = (1, 2)
# A server that says it is busy (the gateway, when too many files are on their way) gets more time.
PAUSES_BUSY_S: tuple[float, ...] = (1, 2, 4, 8, 15, 15, 15)
_BUSY = frozenset({429, 503})
_MAX_RETRY_AFTER_S = 30.0


def fetch(url: str, name: str, work: Work, *, deadline_s: float, allow_origins: Collection[str]) -> Path:
    """The file behind the URL of param `name`, within `deadline_s` seconds. Server errors and broken connections are
    tried again, from the first byte on; what comes too slowly is not.

    Raises a JobError whose message names the param; never repeats the URL, which may hold a password.
    """
    path = work.directory / f"asset-{name}"
    ends_at = time.monotonic() + deadline_s
    for failed in itertools.count():
        try:
            return _fetch_once(url, path, name, work, ends_at, allow_origins)
        except AssetUnavailable as error:
            pause = _pause_s(error.__cause__, failed)
            if pause is None or time.monotonic() + pause > ends_at:
                raise
            log.warning("fetch.failed", param=name, tries=failed + 1, reason=error.message, detail=error.detail)
        work.stop.wait(pause)
    raise AssertionError("unreachable")


def _pause_s(cause: BaseException | None, failed: int) -> float | None:
    """How long to wait after so many failures before; None to give up."""
    if isinstance(cause, safe_http.TooSlow):
        return None  # it would be as slow again, on a machine that is paid by the second
    response = cause.response if isinstance(cause, requests.HTTPError) else None
    busy = response is not None and response.status_code in _BUSY
    pauses = PAUSES_BUSY_S if busy else PAUSES_S
    if failed >= len(pauses):
        return None
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), _MAX_RETRY_AFTER_S) if busy and asked.isdecimal() else pauses[failed]


def _fetch_once(url: str, path: Path, name: str, work: Work, ends_at: float, allow_origins: Collection[str]) -> Path:
    limit = work.limits.max_asset_bytes
    try:
        with path.open("wb") as file:
            done = safe_http.download(
                url,
                file,
                max_bytes=limit,
                deadline_s=ends_at - time.monotonic(),
                allow_origins=allow_origins,
                check=work.stop.check,
            )
    except safe_http.ForbiddenUrl as error:
        raise AssetForbidden(f"{name}: the URL may not be fetched: {error}.") from error
    except safe_http.TooLarge as error:
        raise AssetTooLarge(f"{name}: the file is larger than {limit} bytes.") from error
    except safe_http.Trickles as error:
        raise AssetUnavailable(f"{name}: the server sends the file too slowly.") from error
    except safe_http.TooSlow as error:
        raise AssetUnavailable(f"{name}: the file did not arrive in time.") from error
    except requests.HTTPError as error:
        raise _status_error(name, error) from error
    except requests.RequestException as error:
        raise AssetUnavailable(f"{name}: the URL could not be reached.", detail=calls.kinds(error)) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise WorkerDiskFull from error
        raise
    if done.size_bytes == 0:
        raise AssetEmpty(f"{name}: the file is empty.")
    if sniff_file(path) == HTML:
        raise AssetInvalid(f"{name}: {share_links.explain(url)}")
    log.info("fetch.done", param=name, size_bytes=done.size_bytes, content_type=done.content_type)
    return path


def _status_error(name: str, error: requests.HTTPError) -> JobError:
    status = error.response.status_code
    message = f"{name}: the URL answered with HTTP status {status}."
    if status >= 500 or status in {408, 425, 429}:
        return AssetUnavailable(message)
    return AssetNotFound(message)
