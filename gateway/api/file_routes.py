"""`/files`: uploads of clients, and the two ways that a signed URL opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import structlog
from flask import Response, g, jsonify, request, send_file
from flask.views import MethodView
from marshmallow import EXCLUDE, Schema, fields
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import ClosingIterator

from common.clock import to_rfc3339
from gateway.api.blueprint import Blueprint
from gateway.domain import ids
from gateway.domain.jobs import MARGIN_MS
from gateway.domain.transitions import MAX_TRIES
from gateway.errors import (
    AttemptSuperseded,
    BadRequest,
    FileNotMedia,
    LengthRequired,
    NotFound,
    PayloadTooLarge,
    RangeNotSatisfiable,
    ServiceUnavailable,
    SignatureInvalid,
    StorageLow,
    TransfersBusy,
    UnsupportedMediaType,
)
from gateway.settings import Settings
from gateway.storage import StorageFullError, StorageUnavailable, download_name, mime_of
from gateway.storage.local import LocalStorage
from gateway.wiring import services
from wire import sniffing
from wire.media_types import ANY_MIME

log = structlog.get_logger(__name__)

_CHUNK_BYTES = 256 * 1024
_FILE_BODY = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
_OF_STORING = (BadRequest, LengthRequired, PayloadTooLarge, TransfersBusy, StorageLow)


class SignatureSchema(Schema):
    class Meta:
        unknown = EXCLUDE

    signature = fields.String(load_default="", metadata={"description": "Part of the URL that was handed out."})


class UploadSchema(Schema):
    """An uploaded file."""

    url = fields.String(metadata={"description": "Name it in a job, as url_video for example."})
    size_bytes = fields.Integer()
    expiresAt = fields.String(
        metadata={"description": "RFC 3339. The file is removed then, or when the last job that names it has ended."}
    )


def blueprint() -> Blueprint:
    here = Blueprint("files", __name__, url_prefix="/files", description="Store and fetch files")

    @here.route("", methods=["POST"])
    @here.response(201, UploadSchema)
    @here.doc(requestBody=_FILE_BODY)
    @here.refuses(*_OF_STORING, UnsupportedMediaType, FileNotMedia)
    def upload() -> Response:
        """Upload a file that a job may name. The body is the file itself, not a form."""
        return _upload()

    @here.route("/<path:key>")
    class File(MethodView):
        @here.arguments(SignatureSchema, location="query")
        @here.doc(security=[])
        @here.response(200, {"type": "string", "format": "binary"}, content_type=ANY_MIME)
        @here.alt_response(206, description="A part, as asked for with `Range`", success=True)
        @here.alt_response(304, description="The client has this file already, as `If-None-Match` tells", success=True)
        @here.refuses(SignatureInvalid, NotFound, RangeNotSatisfiable, TransfersBusy)
        def get(self, query: dict[str, Any], key: str) -> Response:
            """A finished file, by its signed URL. Its type is the one that the job tells."""
            return _send(key, query["signature"])

        @here.arguments(SignatureSchema, location="query")
        @here.doc(security=[], requestBody=_FILE_BODY)
        @here.response(201, None, description="Stored")
        @here.refuses(*_OF_STORING, SignatureInvalid, AttemptSuperseded, ServiceUnavailable)
        def put(self, query: dict[str, Any], key: str) -> Response:
            """For workers: store an output at its signed URL."""
            return _receive(key, query["signature"])

    return here


def _upload() -> Response:
    here = services()
    if request.mimetype.startswith("multipart/"):
        raise UnsupportedMediaType("Send the file itself as the body (curl --data-binary @file), not as a form.")
    now = here.clock.now_ms()
    if here.storage.free_percent() < here.settings.min_free_disk_percent:
        raise StorageLow
    key = f"uploads/{g.key_id}/{ids.ulid(now)}"
    size = _store(key, here.settings.max_asset_bytes, sniffed=True)
    expires_at = now + here.settings.upload_retention_seconds * 1000
    # The file itself ends with its time, unless a job still needs it: then its URL must hold as long as that job may.
    url = here.storage.presign_get(key, expires_at=expires_at + _longest_ms(here.settings), for_worker=True)
    response = jsonify({"url": url, "size_bytes": size, "expiresAt": to_rfc3339(expires_at)})
    response.status_code = 201
    return response


def _longest_ms(settings: Settings) -> int:
    """How long a job may be under way at most, all its tries together."""
    return MAX_TRIES * ((settings.queue_limit_seconds + settings.job_timeout_seconds) * 1000 + MARGIN_MS)


def _send(key: str, signature: str) -> Response:
    here = services()
    if _local().allowed("GET", key, signature) is None:
        raise SignatureInvalid
    _bind_ids(key)
    if not here.thread_limits.transfers.take():
        raise TransfersBusy
    try:
        mime = mime_of(key)
        response = send_file(
            _local().path(key),
            mimetype=mime,
            as_attachment=mime == ANY_MIME,  # what a client uploaded is never shown as a page of ours
            download_name=download_name(key),
            conditional=True,
            max_age=0,
        )
    except BaseException as error:
        here.thread_limits.transfers.give_back()
        if isinstance(error, FileNotFoundError | ValueError):
            raise NotFound("The file is not there, or no longer.") from error
        if isinstance(error, OSError):
            raise StorageUnavailable(f"the disk: {error.strerror}") from error
        raise
    # The share is held until the last byte went out or the client went away. (`call_on_close` is not called for
    # responses that are passed through.)
    response.response = ClosingIterator(response.response, here.thread_limits.transfers.give_back)  # type: ignore[arg-type]
    response.cache_control.private = True  # a proxy that keeps files would go on sending them after the URL's end
    return response


def _receive(key: str, signature: str) -> Response:
    max_bytes = _local().allowed("PUT", key, signature)
    if max_bytes is None:
        raise SignatureInvalid
    _bind_ids(key)
    _must_be_wanted(key)
    size = _store(key, max_bytes, lambda: _must_be_wanted(key))
    log.info("file.stored", key=key, size_bytes=size)
    return Response(status=201)


def _local() -> LocalStorage:
    """The only storage that clients and workers reach through this process."""
    storage = services().storage
    if not isinstance(storage, LocalStorage):
        raise NotFound("The files of this gateway lie elsewhere.")
    return storage


def _bind_ids(key: str) -> None:
    """Log lines from here on tell whose output it is."""
    match key.split("/"):
        case ["outputs", job_id, attempt_id, _]:
            structlog.contextvars.bind_contextvars(job_id=job_id, attempt_id=attempt_id)


def _must_be_wanted(key: str) -> None:
    """An output is taken only while its attempt is the job's newest and alive."""
    store = services().store
    attempt = store.attempt(key.split("/")[2])
    job = store.job(attempt.job_id) if attempt else None
    if job is None or attempt is None or job.finished or attempt.ended or job.attempt_id != attempt.id:
        raise AttemptSuperseded


def _store(key: str, max_bytes: int, check: Callable[[], None] = lambda: None, *, sniffed: bool = False) -> int:
    """Write the request's body under `key`, if `check` lets it pass once all of it has come; answers its size.

    `sniffed`: what begins like no media is refused, and not kept.
    """
    here = services()
    length = request.content_length
    if length is None:
        raise LengthRequired
    if length > max_bytes:
        raise PayloadTooLarge(f"The file has {length} bytes, {max_bytes} are allowed.")
    if length == 0:
        raise BadRequest("The body is empty.")
    request.max_content_length = length + 1  # not the limit for JSON bodies; reached exactly, it would count as passed
    with here.thread_limits.transfers.held() as held:
        if not held:
            raise TransfersBusy
        try:
            chunks = _body(length, check)
            return here.storage.write(key, _media(chunks) if sniffed else chunks, length).size_bytes
        except StorageFullError as error:
            log.error("storage.full", key=key)
            raise StorageLow from error


def _media(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks; raises FileNotMedia before the first one when no job could use what they begin with."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= sniffing.HEAD_BYTES:
            break
    if not sniffing.sniff(head[: sniffing.HEAD_BYTES]).is_media:
        raise FileNotMedia
    yield head
    yield from chunks


def _body(length: int, check: Callable[[], None]) -> Iterator[bytes]:
    """The request's body in pieces; raises BadRequest when the client goes away or stalls before all of it came."""
    received = 0
    try:
        while chunk := request.stream.read(_CHUNK_BYTES):
            received += len(chunk)
            yield chunk
    except (ClientDisconnected, OSError) as error:
        raise BadRequest("The connection ended before the whole file had come.") from error
    if received < length:
        raise BadRequest("The connection ended before the whole file had come.")
    check()
