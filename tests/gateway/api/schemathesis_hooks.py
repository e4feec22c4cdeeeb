"""Loaded by schemathesis, in its own process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import schemathesis
from marshmallow import Schema, fields

from ffmpeg_ops.operation import OPERATIONS


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out what is refused before the gateway sees it, and what the gateway takes beyond its document.

    The former is a request line beyond gunicorn's limit. The latter is null and empty text for what is not set, a
    number as `reference`, and 0, "yes" and the like as booleans.
    """
    return len(urlencode(case.query or {}, doseq=True)) < 3000 and not _has_more(case.body)


def _has_more(body: object) -> bool:
    if isinstance(body, Mapping):
        return any(_is_more(name, value) or _has_more(value) for name, value in body.items())
    return isinstance(body, list) and any(map(_has_more, body))


def _is_more(name: object, value: object) -> bool:
    unset = value is None or (isinstance(value, str) and not value.strip())
    return unset or (name == "reference" and isinstance(value, int)) or (name in BOOLEANS and type(value) is not bool)


def _booleans(schema: Schema) -> Iterator[str]:
    for name, field in schema.fields.items():
        inner = field.inner if isinstance(field, fields.List) else field
        if isinstance(inner, fields.Boolean):
            yield name
        elif isinstance(inner, fields.Nested):
            yield from _booleans(inner.schema)


BOOLEANS = {name for operation in OPERATIONS.values() for name in _booleans(operation.params())}
