"""Validation errors of marshmallow as flat text, with one path per field: `scenes[2].url_image`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from marshmallow import ValidationError

# Far more than any operation takes or returns. The length of lists is limited by their fields.
MAX_DEPTH = 16
MAX_FIELDS = 100


def flatten(messages: object, path: str = "") -> dict[str, list[str]]:
    """Reasons by path, from marshmallow's nested messages. Reasons without a field have the path `_schema`."""
    if not isinstance(messages, Mapping):
        reasons = messages if isinstance(messages, list) else [messages]
        return {path or "_schema": [reason if isinstance(reason, str) else str(reason) for reason in reasons]}
    found: dict[str, list[str]] = {}
    for key, inner in messages.items():
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
        for at, reasons in flatten(inner, path if key == "_schema" and path else path + step).items():
            found.setdefault(at, []).extend(reasons)
    return found


def mistakes(error: ValidationError) -> list[str]:
    """Every wrong field with its reason: `["duration: Must be greater than 0.", …]`."""
    messages = error.normalized_messages()  # type: ignore[no-untyped-call]
    return [f"{path}: {reason}" for path, reasons in flatten(messages).items() for reason in reasons]


def describe(error: ValidationError) -> str:
    """`mistakes` on one line."""
    return "; ".join(mistakes(error))


def too_complex(body: Any) -> bool:
    """Whether a JSON document is nested too deep, or an object in it has too many fields."""
    level = [body]  # level by level: deep nesting cannot exhaust the stack
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
