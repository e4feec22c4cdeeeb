"""Reads requests for jobs. Without Flask, because `gateway.api.body_child` does so too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from marshmallow import Schema, ValidationError, fields

from common.validation import describe, flatten
from ffmpeg_ops.assets import WebUrl
from ffmpeg_ops.operation import OPERATIONS, Operation
from gateway.api import labels
from gateway.api.json_body import parse, text_of
from gateway.errors import BodyTooComplex, MalformedBody, RequestError, ValidationFailed

# What `read` raises, by code.
REFUSALS: Mapping[str, type[RequestError]] = {
    cls.code: cls for cls in (MalformedBody, BodyTooComplex, ValidationFailed)
}


# Fields of the request besides the operation's params.
FIELDS: dict[str, fields.Field[Any]] = {
    "webhook_url": WebUrl(metadata={"description": "Receives a webhook when the job has ended (Standard Webhooks)."}),
    "reference": labels.reference("Your own id or label, shown with the job everywhere and a filter of `GET /jobs`."),
    "filename": labels.filename(),
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
