"""Reads requests for jobs. Without Flask, because `gateway.api.body_child` does so too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from common.validation import describe, flatten
from ffmpeg_ops.assets import WebUrl
from ffmpeg_ops.operation import OPERATIONS, Operation
from gateway.api.json_body import parse, text_of
from gateway.domain.jobs import MAX_FILENAME, MAX_REFERENCE
from gateway.errors import BodyTooComplex, MalformedBody, RequestError, ValidationFailed

# Without what would make a path, end a header or turn the direction of text, so that another extension seems the last.
_FILENAME = r"^[^/\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+"
_NO_FILENAME = "Must be a name without a folder and without control characters."
_UNPRINTABLE = "Must not contain control characters."
# What `read` raises, by code.
REFUSALS: Mapping[str, type[RequestError]] = {
    cls.code: cls for cls in (MalformedBody, BodyTooComplex, ValidationFailed)
}


class Reference(fields.String):
    """Text, or an integer, which is taken as text: a row's number is a common id."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        return super()._deserialize(text, attr, data, **kwargs).strip()


# Fields of the request besides the operation's params.
FIELDS: dict[str, fields.Field[Any]] = {
    "webhook_url": WebUrl(metadata={"description": "Receives a webhook when the job has ended (Standard Webhooks)."}),
    "reference": Reference(
        validate=[validate.Length(1, MAX_REFERENCE), validate.Regexp(r"^[^\x00-\x1f\x7f]+\Z", error=_UNPRINTABLE)],
        metadata={"description": "Your own id or label, shown with the job everywhere and a filter of `GET /jobs`."},
    ),
    "filename": fields.String(
        validate=[validate.Length(1, MAX_FILENAME), validate.Regexp(_FILENAME + r"\Z", error=_NO_FILENAME)],
        metadata={
            "description": "Name under which the finished file is downloaded; the extension is added. Several files "
            "get their output's name at the end. Without it, the name is that of the job."
        },
    ),
}


@dataclass(frozen=True)
class JobRequest:
    """A valid request for a job."""

    #: Name of the operation.
    operation: str
    #: The params as JSON text, as the client set them: defaults are applied by the worker.
    params: str
    #: The files that the job makes: name → name of the media type.
    outputs: Mapping[str, str]
    #: The values of FIELDS that are set, by name.
    fields: Mapping[str, Any]
    #: The same for equal requests, whatever the order of keys in their JSON.
    fingerprint: str


def schema(operation: Operation) -> Schema:
    """The schema of the body."""
    return _schema(operation.params)


@cache  # creating it takes longer than using it
def _schema(params: type[Schema]) -> Schema:
    return params.from_dict(FIELDS, name=params.__name__)()


def read(operation: str, data: bytes, *, defaults: bool = False) -> JobRequest:
    """Parse and validate the body of a request. `defaults`: return the params with defaults, numbers as numbers.

    Raises one of REFUSALS.
    """
    known = OPERATIONS[operation]
    body = parse(data)
    try:
        loaded = schema(known).load(body)
    except ValidationError as error:
        raise ValidationFailed.of(error.messages) from error
    try:
        known.named_assets(loaded)
    except ValidationError as error:
        errors = flatten(error.normalized_messages())  # type: ignore[no-untyped-call]
        raise ValidationFailed(describe(error), errors=errors) from error
    params = {name: value for name, value in body.items() if name not in FIELDS}
    given = {name: loaded[name] for name in FIELDS if name in loaded}
    return JobRequest(
        operation,
        text_of(known.dump(loaded) if defaults else params),
        {name: media_type.name for name, media_type in known.declared(loaded).items()},
        given,
        _fingerprint([operation, params, *(given.get(name) for name in FIELDS)]),
    )


def _fingerprint(request: list[Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
