"""The one file of a `multipart/form-data` body, as browsers and workflow tools send it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import IO

from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from gateway.errors import BadRequest, PayloadTooLarge

# Of the form besides its file: names, headers, boundaries and text fields, which are ignored.
MAX_OVERHEAD_BYTES, MAX_PARTS = 64_000, 100
# Of the headers of one part, and of the chunk that is being read.
MAX_BUFFER_BYTES = 1_000_000


def boundary_of(params: Mapping[str, str]) -> str:
    """The boundary that these parameters of the content type name; empty if they name none."""
    boundary = params.get("boundary", "")
    return boundary if boundary.isascii() else ""


def copy_file(body: Iterator[bytes], boundary: str, target: IO[bytes], max_bytes: int) -> int:
    """Write the form's file to `target` and return its size.

    Raises BadRequest unless the form is well-formed and has exactly one file, and PayloadTooLarge.
    """
    decoder = MultipartDecoder(boundary.encode(), MAX_BUFFER_BYTES, max_parts=MAX_PARTS)
    files, size, in_file = 0, 0, False
    try:
        for event in _events(decoder, body):
            match event:
                case File():
                    files, in_file = files + 1, True
                case Field():
                    in_file = False
                case Data(data=data) if in_file:
                    size += len(data)
                    if size > max_bytes:
                        raise PayloadTooLarge(f"The file has more than {max_bytes} bytes.")
                    target.write(data)
            if files > 1:
                raise BadRequest("The form has several files. Send one at a time.")
    except ValueError as error:
        raise BadRequest("The form is malformed.") from error
    if not files:
        raise BadRequest("The form has no file: no part with a filename (with curl, -F file=@FILE).")
    return size


def _events(decoder: MultipartDecoder, body: Iterator[bytes]) -> Iterator[object]:
    """The parts of the form. Raises ValueError when it is malformed or incomplete."""
    for chunk in chain(body, [None]):
        decoder.receive_data(chunk)
        while not isinstance(event := decoder.next_event(), NeedData):
            yield event
            if isinstance(event, Epilogue):
                return
