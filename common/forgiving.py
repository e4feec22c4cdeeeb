"""Schemas for what people, workflows and language models write: they take what is unambiguous."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, pre_load, validate, validates_schema

from common.suggestions import UnknownField

_MISSING = fields.Field.default_error_messages["required"]


class HelpfulSchema(Schema):
    """Says of a missing field what it is, and of an unknown one (see UnknownField) which was meant."""

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **_: Any) -> None:
        """Replace marshmallow's reasons in `error`."""
        found = error.messages
        for messages in found.values() if many and isinstance(found, dict) else [found]:
            for name, reasons in messages.items() if isinstance(messages, dict) else ():
                if reasons == [self.error_messages["unknown"]]:
                    messages[name] = [UnknownField(str(name), self)]
                elif reasons == [_MISSING] and (what := self._description(name)):
                    messages[name] = [f"{_MISSING} {what}"]

    def _description(self, name: str) -> str | None:
        known = {field.data_key or name: field for name, field in self.load_fields.items()}
        return known[name].metadata.get("description") if name in known else None


class ForgivingSchema(HelpfulSchema):
    """Takes null, and for optional fields empty text, as not set; trims text, and takes digits as an integer.

    Text of a field with `metadata={"verbatim": True}` is not trimmed.
    """

    #: Names of optional fields of which exactly one must be set; empty if there is no such choice.
    exactly_one_of: ClassVar[tuple[str, ...]] = ()

    @validates_schema
    def _one_is_chosen(self, data: Mapping[str, Any], **_: Any) -> None:
        names = self.exactly_one_of
        given = [name for name in names if name in data]
        if names and len(given) != 1:
            message = f"Give exactly one of {', '.join(names)}, not {' and '.join(given) or 'none'}."
            raise ValidationError({name: [message] for name in given or names[:1]})

    @pre_load
    def _clean(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        known = {field.data_key or name: field for name, field in self.load_fields.items()}
        cleaned = {name: _cleaned(value, known[name]) if name in known else value for name, value in data.items()}
        too_long = {name: reason for name, value in cleaned.items() if (reason := _too_long(value, known.get(name)))}
        if too_long:
            raise ValidationError(too_long)
        return {name: value for name, value in cleaned.items() if name not in known or _is_set(value, known[name])}


def _cleaned(value: Any, field: fields.Field[Any]) -> Any:
    if not isinstance(value, str) or field.metadata.get("verbatim"):
        return value
    text = value.strip()
    return int(text) if isinstance(field, fields.Integer) and re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _too_long(value: Any, field: fields.Field[Any] | None) -> list[str]:
    """Why a list is too long. marshmallow would load all elements first, which takes seconds for a megabyte of them."""
    if not isinstance(value, list) or field is None:
        return []
    reasons = []
    for rule in field.validators:
        if isinstance(rule, validate.Length) and rule.max is not None and len(value) > rule.max:
            try:
                rule(value)
            except ValidationError as error:
                reasons += [str(message) for message in error.messages]
    return reasons


def _is_set(value: Any, field: fields.Field[Any]) -> bool:
    empty = isinstance(value, str) and not value.strip()
    return value is not None and (field.required or not empty)
