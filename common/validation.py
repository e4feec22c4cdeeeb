"""marshmallow's messages as flat text."""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import ValidationError


def describe(error: ValidationError) -> str:
    """Every wrong field with its reason, in one line: `duration: Must be greater than 0.; url_video: …`."""
    return "; ".join(mistakes(error))


def mistakes(error: ValidationError) -> list[str]:
    """Every wrong field with its reason: `["duration: Must be greater than 0.", …]`."""
    messages = error.normalized_messages()  # type: ignore[no-untyped-call]
    return [f"{path}: {text}" for path, text in _flatten(messages)]


def _flatten(messages: object, path: str = "") -> list[tuple[str, str]]:
    if isinstance(messages, Mapping):
        return [
            row for key, value in messages.items() for row in _flatten(value, f"{path}.{key}" if path else str(key))
        ]
    if isinstance(messages, list):
        return [row for value in messages for row in _flatten(value, path)]
    return [(path, str(messages))]
