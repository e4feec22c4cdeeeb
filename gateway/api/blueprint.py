"""flask-smorest's blueprint as this API uses it: strict input, and every refusal in the documentation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import flask_smorest
from flask import Request
from marshmallow import Schema, missing
from webargs.flaskparser import FlaskParser

from gateway import errors
from gateway.api.problems import MEDIA_TYPE, ProblemSchema

Refusal = type[errors.RequestError]

# Whoever comes without a key or too often, or finds the database down, is refused before the view is reached.
_BEFORE_THE_VIEW = (errors.Unauthorized, errors.ServiceUnavailable)
_OF_A_KEY = (errors.MissingScope, errors.RateLimited)
_OF_A_BODY = (errors.MalformedBody, errors.BodyTooComplex, errors.PayloadTooLarge, errors.UnsupportedMediaType)
# Far beyond what any operation takes. Lists are as long as their fields allow.
MAX_DEPTH = 16
MAX_FIELDS = 100


class _Parser(FlaskParser):
    """Refuses unknown query parameters, other media types than JSON, and JSON that Python cannot hold."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": None}

    def load_json(self, req: Request, schema: Schema) -> Any:
        if not req.is_json:
            raise errors.UnsupportedMediaType
        if req.content_length is None and len(req.get_data()) >= (req.max_content_length or 0):
            raise errors.PayloadTooLarge  # werkzeug cuts a chunked body off there, without a word
        try:
            body = super().load_json(req, schema)
            if body is not missing:
                # half of a surrogate pair: no database and no URL can hold it
                json.dumps(body, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:  # numbers of many thousand digits, brackets nested as deep
            raise errors.MalformedBody from error
        if _too_complex(body):
            raise errors.BodyTooComplex(
                f"The body may be nested {MAX_DEPTH} levels deep, and an object in it may have {MAX_FIELDS} fields."
            )
        return body


def _too_complex(body: Any) -> bool:
    """Level by level: what is nested deep cannot exhaust the stack."""
    level = [body]
    for _ in range(MAX_DEPTH):
        if any(isinstance(node, dict) and len(node) > MAX_FIELDS for node in level):
            return True
        inner = chain.from_iterable(
            node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)
        )
        level = [node for node in inner if isinstance(node, dict | list)]
        if not level:
            return False
    return True


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """`refuses` documents what a view may answer besides success; what all views have in common is added to it."""

    ARGUMENTS_PARSER = _Parser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._prepare_refusals_doc)

    def arguments(self, schema: Schema | type[Schema], **kwargs: Any) -> Callable[..., Any]:
        """As ever, but one schema for all requests: to make one takes longer than to use it."""
        made = schema() if isinstance(schema, type) else schema
        return super().arguments(made, **kwargs)  # type: ignore[no-any-return]

    def refuses(self, *refusals: Refusal) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorates a view with the problems of its own that it may answer."""

        def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
            view._apidoc = {**getattr(view, "_apidoc", {}), "refusals": refusals}  # type: ignore[attr-defined]
            return view

        return decorate

    @staticmethod
    def _prepare_refusals_doc(doc: dict[str, Any], doc_info: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        security = doc_info.get("manual_doc", {}).get("security")
        takes_json = "application/json" in doc.get("requestBody", {}).get("content", {})
        refusals = {
            *doc_info.get("refusals", ()),
            *(() if security == [] else _BEFORE_THE_VIEW),
            *(_OF_A_KEY if security is None else ()),
            *((errors.ValidationFailed,) if "arguments" in doc_info else ()),
            *(_OF_A_BODY if takes_json else ()),
        }
        responses = doc.setdefault("responses", {})
        # a status that the view documents itself, with another schema, stays as it is
        own = {str(status) for status, response in responses.items() if isinstance(response, dict)}
        responses.update({s: r for s, r in _responses(refusals).items() if str(s) not in own})
        return doc


def _responses(refusals: set[Refusal]) -> dict[int, dict[str, Any]]:
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for refusal in sorted(refusals, key=lambda refusal: refusal.code):
        by_status[refusal.status].append(f"`{refusal.code}`: {refusal.text}")
    content = {MEDIA_TYPE: {"schema": ProblemSchema}}
    return {s: {"description": " ".join(by_status[s]), "content": content} for s in sorted(by_status)}
