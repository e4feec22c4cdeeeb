"""Files in a bucket of S3 or a compatible service, which workers and clients access directly.

A presigned PUT binds key, method, expiry and content type, but no maximum size, and may be used again until it expires.
So every attempt has its own keys, and the size of a stored file is checked before the file counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import boto3
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from common.clock import Clock
from gateway.settings import Settings
from gateway.storage import KEY, StorageUnavailable, content_disposition, mime_of
from wire.envelope import Upload

CONNECT_S = 5
READ_S = 10
TRIES = 2
# S3 may take long to respond after the last byte of a large file.
WRITE_S = 60
WRITE_MS = 3600 * 1000
# Maximum validity of a presigned URL.
MAX_TTL_S = 7 * 24 * 3600
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_CODE = re.compile(r"<Code>(\w+)</Code>")


class S3Storage:
    """Storage in `settings.s3_bucket`, below `settings.s3_prefix`.

    The access key must be allowed to put, get, delete and list: without the right to list, S3 reports a missing file
    as forbidden. All methods except the presigning ones raise StorageUnavailable if the call fails.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._bucket, self._prefix, self._clock = settings.s3_bucket, settings.s3_prefix, clock
        self._public_url = (settings.s3_public_url or "").rstrip("/")
        self._s3: Any = boto3.client(
            "s3",
            region_name=settings.s3_region,
            endpoint_url=settings.s3_endpoint_url,
            aws_access_key_id=settings.s3_access_key_id,
            aws_secret_access_key=settings.s3_secret_access_key,
            config=Config(
                signature_version="s3v4",
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                retries={"total_max_attempts": TRIES, "mode": "standard"},
                max_pool_connections=settings.threads + 16,
                # Few services except Amazon's have a host name for every bucket.
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "virtual"},
                # Otherwise a presigned PUT requires a checksum header that workers do not send.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def presign_put(self, key: str, *, max_bytes: int, expires_at: int, file_name: str | None = None) -> Upload:
        # Both headers are stored with the file, and sent with every download.
        headers = {"Content-Type": mime_of(key)}
        if file_name is not None:
            headers["Content-Disposition"] = content_disposition(file_name)
        params = {name.replace("-", ""): value for name, value in headers.items()}
        return Upload(url=self._presign("put_object", key, expires_at, **params), max_bytes=max_bytes, headers=headers)

    def presign_get(self, key: str, *, expires_at: int, for_worker: bool = False) -> str:
        if self._public_url and not for_worker:
            return f"{self._public_url}/{quote(self._prefix + key)}"
        return self._presign("get_object", key, expires_at)

    def size(self, key: str) -> int | None:
        with _translated():
            try:
                return int(self._s3.head_object(**self._place(key))["ContentLength"])
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _GONE:
                    return None
                raise

    def write(self, key: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        """Stream the file to S3 as a worker would: with a known length, without buffering it, and without retries."""
        target = self.presign_put(key, max_bytes=size_bytes, expires_at=self._clock.now_ms() + WRITE_MS)
        with requests.Session() as http:
            http.trust_env = False
            try:
                response = http.put(
                    target.url,
                    data=_Body(chunks, size_bytes),
                    headers=target.headers,
                    timeout=(CONNECT_S, WRITE_S),
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                raise StorageUnavailable(f"S3 could not be reached: {type(error).__name__}") from None
        if response.status_code != 200:
            code = _CODE.search(response.text)
            raise StorageUnavailable(f"S3 returned {response.status_code} {code[1] if code else ''}".strip())

    def delete(self, key: str) -> None:
        with _translated():
            self._s3.delete_object(**self._place(key))

    def keys(self) -> Iterator[str]:
        """The keys of all our files; other objects in the bucket are skipped."""
        with _translated():
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    if KEY.fullmatch(key):
                        yield key

    def tidy(self) -> None:
        """Do nothing: S3 never shows an incomplete upload."""

    def check(self) -> None:
        with _translated():
            self._s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def free_percent(self) -> float:
        """Return 100: the space in S3 is unlimited."""
        return 100.0

    def _place(self, key: str) -> dict[str, Any]:
        if not KEY.fullmatch(key):
            raise ValueError("not a storage key")
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _presign(self, method: str, key: str, expires_at: int, **params: str) -> str:
        lives_s = (expires_at - self._clock.now_ms()) // 1000
        url: str = self._s3.generate_presigned_url(
            method, Params={**self._place(key), **params}, ExpiresIn=max(1, min(lives_s, MAX_TTL_S))
        )
        return url


class _Body:
    """A request body of known length."""

    def __init__(self, chunks: Iterable[bytes], size_bytes: int) -> None:
        self._chunks, self._size_bytes = chunks, size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise boto3's errors as StorageUnavailable. Their texts name the call and S3's code, but no secret."""
    try:
        yield
    except ClientError as error:
        raise StorageUnavailable(f"S3 returned {error.response.get('Error', {}).get('Code')}") from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"S3 could not be reached: {type(error).__name__}") from error
