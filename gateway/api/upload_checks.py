"""`/allowed/files`: whether an upload would be accepted, asked by nginx (`auth_request`) before it reads the body.

nginx buffers uploads. Without this check anyone could fill its disk. It sends the path of the upload behind `/allowed`,
the other headers of the request, and the length of its body as `X-Body-Length`.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from gateway.api.file_routes import check_output, check_upload


def blueprint() -> Blueprint:
    here = Blueprint("upload_checks", __name__, url_prefix="/allowed/files")

    @here.get("")
    def upload() -> Response:
        """Check an upload of a client: its key, its type and its length."""
        check_upload(_length())
        return Response(status=204)

    @here.get("/<path:key>")
    def output(key: str) -> Response:
        """Check an upload of a worker: its signature, its attempt and its length."""
        check_output(key, request.args.get("signature", ""), _length())
        return Response(status=204)

    return here


def _length() -> int | None:
    return request.headers.get("X-Body-Length", type=int)
