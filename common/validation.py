"""Validation errors of marshmallow as flat text, with one path per field: `scenes[2].url_image`."""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import ValidationError


def flatten(messages: object, path: str = "") -> dict[str, list[str]]:
    """Reasons by path, from marshmallow's nested messages. Reasons without a field have the path `_schema`."""
    if not isinstance(messages, Mapping):
        reasons = messages if isinstance(messages, list) else [messages]
        return {path or "_schema": [str(reason) for reason in reasons]}
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
