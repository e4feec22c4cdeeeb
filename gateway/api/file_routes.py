"""`/files`: uploads of clients, and files by signed URLs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import structlog
from flask import Response, g, request, send_file
from flask.views import MethodView
from marshmallow import EXCLUDE, Schema, fields
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import ClosingIterator

from common.http_connection import away
from gateway.access.rate_limits import address_of
from gateway.api import form_upload
from gateway.api.blueprint import Blueprint
from gateway.api.openapi import examples, headers, paths
from gateway.api.openapi.schemas import ResponseSchema
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
    TooManyBytes,
    TransfersBusy,
    UnsupportedMediaType,
)
from gateway.storage import StorageUnavailable, mime_of
from gateway.storage.local import LocalStorage
from gateway.wiring import services
from wire import sniffing
from wire.envelope import Rfc3339
from wire.media_types import ANY_MIME

log = structlog.get_logger(__name__)

_CHUNK_BYTES = 256 * 1024
_BINARY = {"type": "string", "format": "binary"}
_FILE_BODY = {"required": True, "content": {ANY_MIME: {"schema": _BINARY}}}
# The form is first: clients made by openapi-generator send the first kind only, and if that is the file itself, those
# in TypeScript do not compile.
_FORM_OR_FILE = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]}},
        **_FILE_BODY["content"],  # type: ignore[dict-item]
    },
}
# Without any optional parameter, openapi-python-client makes a module of the route that cannot be imported.
_REQUEST_ID = {
    "in": "header",
    "name": "X-Request-Id",
    "schema": {"type": "string"},
    "description": "Your id of the request in the server's log: up to 64 printable ASCII characters.",
}
# Headers of which servers differ in detail, and the ranges that all understand alike.
_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_PLAIN_RANGE = re.compile(r"bytes=(\d{1,15}-\d{0,15}|-\d{1,15})", re.ASCII)
_OF_STORING = (BadRequest, LengthRequired, PayloadTooLarge, TransfersBusy, StorageLow)


class SignatureSchema(Schema):
    class Meta:
        unknown = EXCLUDE

    signature = fields.String(load_default="", metadata={"description": "Part of the signed URL."})


class UploadSchema(ResponseSchema):
    """An uploaded file."""

    url = fields.String(
        required=True, metadata={"format": "uri", "description": "For use in a job, for example as url_video."}
    )
    size_bytes = fields.Integer(required=True, metadata={"description": "Size of the file."})
    expiresAt = Rfc3339(
        required=True,
        metadata={"description": "RFC 3339. The file is removed then, or when the last job that uses it has ended."},
    )


_UPLOADED = {
    "url": "https://video.example.com/files/uploads/key_01HF7YAT00M3XH5S9QHW1K2YB6/01HF7YAT00M3XH5S9QHW1K2YB7"
    "?signature=c2ln",
    "size_bytes": 701_310,
    "expiresAt": 1_700_086_400_000,
}


def blueprint() -> Blueprint:
    here = Blueprint("files", __name__, url_prefix="/files", description="Store and fetch files")

    @here.route("", methods=["POST"], parameters=[_REQUEST_ID])
    @here.response(
        201,
        UploadSchema,
        description="The file, stored",
        examples=examples.only(UploadSchema().dump(_UPLOADED)),
    )
    @here.doc(requestBody=_FORM_OR_FILE, operationId="uploadFile")
    @here.refuses(*_OF_STORING, UnsupportedMediaType, FileNotMedia, TooManyBytes)
    def upload() -> dict[str, Any]:
        """Upload a file for use in jobs. The body is the file itself, or a form with one file."""
        return _upload()

    @here.route("/<path:key>")
    class File(MethodView):
        @here.arguments(SignatureSchema, location="query")
        @here.doc(security=[], operationId="downloadOutput")
        @here.response(
            200,
            _BINARY,
            content_type=ANY_MIME,
            description="The file, with the media type that its job shows",
            headers=headers.refer("ETag"),
        )
        @here.alt_response(
            206,
            schema=_BINARY,
            content_type=ANY_MIME,
            description="The requested `Range`",
            headers=headers.refer("ETag", "Content-Range"),
            success=True,
        )
        @here.alt_response(
            412, description="Changed, according to `If-Match` or `If-Unmodified-Since`", headers=headers.refer("ETag")
        )
        @here.alt_response(
            304,
            description="Not modified, according to `If-None-Match`",
            headers=headers.refer("ETag"),
            success=True,
        )
        @here.refuses(SignatureInvalid, NotFound, RangeNotSatisfiable, TransfersBusy)
        def get(self, query: dict[str, Any], key: str) -> Response:
            """Download a finished file by its signed URL.

            The job has the URL in `outputs`, with its media type.
            """
            return _send(key, query["signature"])

        @here.arguments(SignatureSchema, location="query")
        @here.doc(security=[], requestBody=_FILE_BODY, operationId="storeOutput", tags=[paths.WORKERS])
        @here.response(201, None, description="Stored")
        @here.refuses(*_OF_STORING, SignatureInvalid, AttemptSuperseded, ServiceUnavailable)
        def put(self, query: dict[str, Any], key: str) -> Response:
            """Store an output at its signed URL."""
            return _receive(key, query["signature"])

    return here


def check_upload(length: int | None) -> int:
    """Return `length`. Raises the error of a client's upload of that many bytes, or of unknown size, if it has one."""
    here = services()
    if request.mimetype.startswith("multipart/") and not _is_form():
        raise UnsupportedMediaType(
            "Send the file itself as the body (curl --data-binary @file), or as a form's only file."
        )
    if _is_form() and not form_upload.boundary_of(request.mimetype_params):
        raise BadRequest("The form has no boundary.")
    if here.store.reserve.is_low() or here.storage.free_percent() < here.settings.min_free_disk_percent:
        raise StorageLow
    return _checked(length, here.settings.max_asset_bytes + (form_upload.MAX_OVERHEAD_BYTES if _is_form() else 0))


def check_output(key: str, signature: str, length: int | None) -> int:
    """Return `length`. Raises the error of a worker's upload of that many bytes, or of unknown size, if it has one."""
    max_bytes = _local().allowed("PUT", key, signature)
    if max_bytes is None:
        raise SignatureInvalid
    _bind_ids(key)
    _check_unfinished(key)
    return _checked(length, max_bytes)


def _checked(length: int | None, max_bytes: int) -> int:
    if length is None:
        raise LengthRequired
    if length > max_bytes:
        raise PayloadTooLarge(f"The file has {length} bytes; at most {max_bytes} are allowed.")
    if length == 0:
        raise BadRequest("The body is empty.")
    return length


def _is_form() -> bool:
    return request.mimetype == "multipart/form-data"


def _upload() -> dict[str, Any]:
    here = services()
    size = check_upload(request.content_length)
    now = here.clock.now_ms()
    key = f"uploads/{g.key_id}/{ids.ulid(now)}"
    client = address_of(request.remote_addr)
    with here.thread_limits.transfers.held(g.key_id, client) as taken:
        if not taken:
            raise TransfersBusy
        with here.upload_quota.counted(key, size):
            if _is_form():
                size = _store_form(key, size, taken)
            else:
                _store(key, size, taken, sniffed=True)
    expires_at = now + here.settings.upload_retention_seconds * 1000
    # The file is removed when it expires, unless a job needs it. The URL stays valid for all tries of such a job.
    try_ms = (here.settings.queue_limit_seconds + here.settings.job_timeout_seconds) * 1000 + MARGIN_MS
    url = here.storage.presign_get(key, expires_at=expires_at + MAX_TRIES * try_ms, for_worker=True)
    return {"url": url, "size_bytes": size, "expiresAt": expires_at}


def _send(key: str, signature: str) -> Response:
    if _local().allowed("GET", key, signature) is None:
        raise SignatureInvalid
    _bind_ids(key)
    response = _sent_by_nginx(key) or _sent_by_gateway(key)
    response.cache_control.private = True  # a caching proxy would serve files after their URL has expired
    return response


def _sent_by_nginx(key: str) -> Response | None:
    """The response whose body nginx sends. None without nginx, and for the requests that it may judge otherwise."""
    location = services().settings.x_accel_redirect
    if location is None:
        return None
    response = _file(key)
    response.close()
    if not _is_plain(response):
        return None
    try:
        _local().publish(key)
    except OSError:
        return None
    response.direct_passthrough = False
    response.set_data(b"")
    if response.status_code == 200:
        del response.headers["Accept-Ranges"]  # nginx adds its own, but not to a part of the file
    response.headers["X-Accel-Redirect"] = f"{location}/{key}"
    return response


def _is_plain(response: Response) -> bool:
    """Whether any server comes to the same status, headers and part of the file as `response`."""
    sent = request.headers
    if any(name in sent for name in _CONDITIONS) or sent.get("If-Range") not in {None, response.headers.get("ETag")}:
        return False
    if "Range" not in sent:
        return response.status_code == 200
    return response.status_code == 206 and bool(_PLAIN_RANGE.fullmatch(sent["Range"]))


def _sent_by_gateway(key: str) -> Response:
    here = services()
    # Uploads are fetched by workers. Videos are fetched by clients, and need no key.
    holder = _owner(key), None if key.startswith("uploads/") else address_of(request.remote_addr)
    with ExitStack() as held:
        if not held.enter_context(here.thread_limits.transfers.held(*holder)):
            raise TransfersBusy
        held.enter_context(away(here.thread_limits.moving))
        response = _file(key)
        # Until the last byte was sent or the client left. `call_on_close` is not called for responses that are passed
        # through.
        response.response = ClosingIterator(response.response, held.pop_all().close)  # type: ignore[arg-type]
    return response


def _file(key: str) -> Response:
    """The response with the file. Raises NotFound or StorageUnavailable."""
    try:
        mime = mime_of(key)
        return send_file(
            _local().path(key),
            mimetype=mime,
            as_attachment=mime == ANY_MIME,  # uploads of clients must not be shown as pages
            download_name=_file_name(key),
            conditional=True,
            max_age=0,
        )
    except (FileNotFoundError, ValueError) as error:
        raise NotFound("The file does not exist or was removed.") from error
    except OSError as error:
        raise StorageUnavailable(f"the disk: {error.strerror}") from error


def _file_name(key: str) -> str:
    """The name for a download: as the job says, or else the last part of the key."""
    last = key.rpartition("/")[2]
    match key.split("/"):
        case ["outputs", job_id, *_] if (job := services().store.job(job_id)) is not None:
            return job.file_name(last.partition(".")[0])
    return last


def _receive(key: str, signature: str) -> Response:
    size = check_output(key, signature, request.content_length)
    with services().thread_limits.transfers.held(_owner(key)) as taken:
        _store(key, size, taken, lambda: _check_unfinished(key))
    log.info("file.stored", key=key, size_bytes=size)
    return Response(status=201)


def _local() -> LocalStorage:
    """The storage, if it is local; others are not reached through this process."""
    storage = services().storage
    if not isinstance(storage, LocalStorage):
        raise NotFound("The files of this gateway are stored elsewhere.")
    return storage


def _bind_ids(key: str) -> None:
    """Add the ids of an output to all further log lines."""
    match key.split("/"):
        case ["outputs", job_id, attempt_id, _]:
            structlog.contextvars.bind_contextvars(job_id=job_id, attempt_id=attempt_id)


def _owner(key: str) -> str:
    """The id of the API key to which the file belongs; empty if its job has been removed."""
    match key.split("/"):
        case ["uploads", key_id, _]:
            return key_id
        case ["outputs", job_id, *_] if (job := services().store.job(job_id)) is not None:
            return job.key_id
    return ""


def _check_unfinished(key: str) -> None:
    """Raise AttemptSuperseded unless the output's attempt is the newest of its job and unfinished."""
    store = services().store
    attempt = store.attempt(key.split("/")[2])
    job = store.job(attempt.job_id) if attempt else None
    if job is None or attempt is None or job.finished or attempt.ended or job.attempt_id != attempt.id:
        raise AttemptSuperseded


def _store(
    key: str, length: int, taken: bool, check: Callable[[], None] = lambda: None, *, sniffed: bool = False
) -> None:
    """Store the request's body of `length` bytes under `key`. `check` is called after the last byte.

    `taken`: whether there is a place for the transfer. `sniffed`: refuse files that do not begin like media.
    """
    here, chunks = services(), _body(length, taken, check)
    with away(here.thread_limits.moving):
        here.storage.write(key, _media(chunks) if sniffed else chunks, length)


def _store_form(key: str, length: int, taken: bool) -> int:
    """Store the only file of the request's form, which has `length` bytes, under `key`. Return the file's size.

    It is copied to the disk first: S3 needs the size before the first byte, and a second file is seen after the last.
    """
    here, boundary = services(), form_upload.boundary_of(request.mimetype_params)
    chunks, folder = _while_there_is_room(_body(length, taken)), here.settings.data_dir
    with away(here.thread_limits.moving):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                size = form_upload.copy_file(chunks, boundary, file, here.settings.max_asset_bytes)
                if size == 0:
                    raise BadRequest("The form's file is empty.")
                file.seek(0)
                here.storage.write(key, _media(iter(partial(file.read, _CHUNK_BYTES), b"")), size)
        except OSError as error:
            raise StorageUnavailable(f"the disk: {error.strerror}") from error
    return size


def _while_there_is_room(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass on `chunks`, which go to the disk of DATA_DIR. Raises StorageLow when that is full."""
    for chunk in chunks:
        if services().store.reserve.is_low():
            raise StorageLow
        yield chunk


def _media(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass on `chunks`. Raises FileNotMedia before the first one if they do not begin like media."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= sniffing.HEAD_BYTES:
            break
    if not sniffing.sniff(head[: sniffing.HEAD_BYTES]).is_media:
        raise FileNotMedia
    yield head
    yield from chunks


def _body(length: int, taken: bool, check: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """The request's body in chunks; `check` is called after the last. Raises TransfersBusy if no place is `taken`."""
    request.max_content_length = length + 1  # instead of the limit for JSON; a body of exactly the limit is refused
    if not taken:
        raise TransfersBusy
    return _chunks(length, check)


def _chunks(length: int, check: Callable[[], None]) -> Iterator[bytes]:
    """Read the request's body. Raises BadRequest if the client leaves or stalls before its end."""
    received = 0
    cut_off = BadRequest("The connection ended before the end of the file.")
    try:
        while chunk := request.stream.read(_CHUNK_BYTES):
            received += len(chunk)
            yield chunk
    except (ClientDisconnected, OSError) as error:
        raise cut_off from error
    if received < length:
        raise cut_off
    check()
