"""Parses JSON bodies. Without Flask, because bodies are also parsed by `gateway.api.body_child`."""

from __future__ import annotations

import json
from typing import Any

from common.validation import MAX_DEPTH, MAX_FIELDS, too_complex
from gateway.errors import BodyTooComplex, MalformedBody


def parse(data: bytes) -> Any:
    """The document of a body; an empty body is an empty object. Raises MalformedBody or BodyTooComplex."""
    try:
        body = json.loads(data.decode()) if data else {}
        text_of(body).encode()  # half of a surrogate pair fits into no database and no URL
    except (ValueError, RecursionError) as error:  # also thousands of digits or of nested brackets
        raise MalformedBody from error
    if too_complex(body):
        raise BodyTooComplex(
            f"The body may be nested {MAX_DEPTH} levels deep, and an object in it may have {MAX_FIELDS} fields."
        )
    return body


def text_of(document: Any) -> str:
    """Compact JSON text."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
