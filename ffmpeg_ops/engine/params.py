"""Fields shared by the operations' params. Can be imported by a gateway without FFmpeg."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from marshmallow import fields, missing, validate


def choice(values: Iterable[str], description: str, default: Any = missing) -> fields.String:
    """One of `values`."""
    return fields.String(
        load_default=default, validate=validate.OneOf(list(values)), metadata={"description": description}
    )


def number(low: float, high: float, description: str, default: Any = missing, unit: str = "") -> fields.Float:
    """A number from `low` to `high`; None is allowed where it is the default."""
    rule = validate.Range(min=low, max=high, error=f"Must be from {{min}} to {{max}}{unit}.")
    return fields.Float(
        load_default=default, allow_none=default is None, validate=rule, metadata={"description": description}
    )


def integer(low: int, high: int, description: str) -> fields.Integer:
    """An integer from `low` to `high`, without a default."""
    return fields.Integer(
        strict=True, validate=validate.Range(min=low, max=high), metadata={"description": description}
    )
