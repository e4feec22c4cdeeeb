"""flask-smorest's blueprint with strict input, and with every error response in the OpenAPI document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import flask_smorest
from flask import Request
from marshmallow import Schema
from webargs.flaskparser import FlaskParser

from gateway import errors
from gateway.api import json_body
from gateway.api.openapi import examples, headers
from gateway.api.problems import MEDIA_TYPE, STATUS_OF_OUR_FAILURE, STATUS_OF_OWN_FAULT, ProblemSchema

Refusal = type[errors.RequestError]

# Raised before or around every view: no valid key, too many requests, or the database is down.
_OF_EVERY_VIEW = (errors.Unauthorized, errors.ServiceUnavailable)
_OF_A_KEY = (errors.MissingScope, errors.RateLimited)
_OF_A_BODY = (errors.MalformedBody, errors.BodyTooComplex, errors.PayloadTooLarge, errors.UnsupportedMediaType)


_OF_A_FAILED_JOB = {
    STATUS_OF_OWN_FAULT: "With strict handling: the job failed for a reason of its own, with the job's code.",
    STATUS_OF_OUR_FAILURE: "With strict handling: the job failed for another reason, with the job's code.",
}


def check_json(req: Request) -> None:
    """Raise UnsupportedMediaType or PayloadTooLarge for a body that need not be read."""
    if not req.is_json:
        raise errors.UnsupportedMediaType
    if req.max_content_length is not None and (req.content_length or 0) > req.max_content_length:
        raise errors.PayloadTooLarge


def read_json(req: Request) -> bytes:
    """Read a JSON body, unparsed. Raises UnsupportedMediaType or PayloadTooLarge."""
    check_json(req)
    body = req.get_data()
    if req.content_length is None and len(body) >= (req.max_content_length or 0):
        raise errors.PayloadTooLarge  # werkzeug truncates a chunked body silently
    return body


class _Parser(FlaskParser):
    """Rejects unknown query parameters, media types other than JSON, and JSON that Python cannot represent."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": None}

    def load_json(self, req: Request, schema: Schema) -> Any:
        return json_body.parse(read_json(req))


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """`refuses` documents the errors of one view; those that views have in common are added to them."""

    ARGUMENTS_PARSER = _Parser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._prepare_refusals_doc)

    def arguments(self, schema: Schema | type[Schema], **kwargs: Any) -> Callable[..., Any]:
        """Use one schema instance for all requests: creating one takes longer than using it."""
        made = schema() if isinstance(schema, type) else schema
        return super().arguments(made, **kwargs)  # type: ignore[no-any-return]

    def documents(self, schema: Schema, *, examples: Mapping[str, Any]) -> Callable[..., Any]:
        """Document the body that a view reads itself."""

        def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
            documented = super(Blueprint, self).arguments(schema, examples=examples)(view)
            view._apidoc = documented._apidoc  # type: ignore[attr-defined]
            return view

        return decorate

    def refuses(
        self, *refusals: Refusal, failed_jobs: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare the errors that are specific to a view. `failed_jobs`: with strict handling also those of jobs."""

        def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
            declared = {"refusals": refusals, "failed_jobs": failed_jobs}
            view._apidoc = {**getattr(view, "_apidoc", {}), **declared}  # type: ignore[attr-defined]
            return view

        return decorate

    @staticmethod
    def _prepare_refusals_doc(doc: dict[str, Any], doc_info: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        security = doc_info.get("manual_doc", {}).get("security")
        takes_json = "application/json" in doc.get("requestBody", {}).get("content", {})
        refusals = {
            *doc_info.get("refusals", ()),
            *(() if security == [] else _OF_EVERY_VIEW),
            *(_OF_A_KEY if security is None else ()),
            *((errors.ValidationFailed,) if "arguments" in doc_info else ()),
            *(_OF_A_BODY if takes_json else ()),
        }
        failed_jobs = doc_info.get("failed_jobs", False)
        responses = doc.setdefault("responses", {})
        # Keep a status that the view documents itself with another schema.
        own = {str(status) for status, response in responses.items() if isinstance(response, dict)}
        made = _responses(refusals, failed_jobs)
        responses.update({s: r for s, r in made.items() if str(s) not in own})
        for response in responses.values():
            if isinstance(response, dict):
                response["headers"] = headers.of_every_response(refusals) | response.get("headers", {})
        return doc


def _responses(refusals: set[Refusal], failed_jobs: bool) -> dict[int, dict[str, Any]]:
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for status, text in _OF_A_FAILED_JOB.items() if failed_jobs else ():
        by_status[status].append(text)
    for refusal in sorted(refusals, key=lambda refusal: refusal.code):
        by_status[refusal.status].append(f"`{refusal.code}`: {refusal.text}")
    return {
        status: {
            "description": " ".join(by_status[status]),
            "headers": headers.of_error(status, failed_jobs),
            "content": {MEDIA_TYPE: {"schema": ProblemSchema, "examples": _examples(status, refusals, failed_jobs)}},
        }
        for status in sorted(by_status)
    }


def _examples(status: int, refusals: set[Refusal], failed_jobs: bool) -> dict[str, Any]:
    of_job = examples.of_failed_job(status) if failed_jobs and status in _OF_A_FAILED_JOB else {}
    of_errors = [refusal for refusal in refusals if refusal.status == status]
    return examples.of_errors(sorted(of_errors, key=lambda refusal: refusal.code)) | of_job
