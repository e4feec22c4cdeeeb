"""How marshmallow's schemas become JSON Schema, where apispec says less than the schema does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import EXCLUDE, Schema, fields, validate

from common.forgiving import ForgivingSchema
from wire.envelope import Rfc3339


class ResponseSchema(Schema):
    """A document in responses. It is documented as open, because later releases may add fields."""

    class Meta:
        unknown = EXCLUDE


class Converter(OpenAPIConverter):
    """apispec's converter, with formats, exclusive limits, JSON Schema's patterns, and `exactly_one_of`."""

    def init_attribute_functions(self) -> None:
        super().init_attribute_functions()  # type: ignore[no-untyped-call]
        self.attribute_functions += [_format, _limits, _pattern]

    def schema2jsonschema(self, schema: Any) -> dict[str, Any]:
        """The schema of an object; with `exactly_one_of`, one for each of these fields."""
        whole: dict[str, Any] = super().schema2jsonschema(schema)  # type: ignore[no-untyped-call]
        names = schema.exactly_one_of if isinstance(schema, ForgivingSchema) else ()
        if not names:
            return whole
        # Complete objects: generators ignore the fields beside a `oneOf`.
        return {"oneOf": [_with_one(whole, name, names, self.schema_name_resolver(schema)) for name in names]}


class Plugin(MarshmallowPlugin):
    Converter = Converter


def _with_one(whole: Mapping[str, Any], chosen: str, names: tuple[str, ...], title: str) -> dict[str, Any]:
    """The schema of an object that has `chosen`, and none of the other `names`."""
    properties = {name: value for name, value in whole["properties"].items() if name == chosen or name not in names}
    last = "".join(word.capitalize() for word in chosen.split("_"))
    required = sorted({*whole.get("required", ()), chosen})
    return {**whole, "title": f"{title}With{last}", "properties": properties, "required": required}


def _format(field: fields.Field[Any], **_: Any) -> dict[str, str]:
    match field:
        case fields.Url():
            return {"format": "uri"}
        case Rfc3339():
            return {"format": "date-time"}
    return {}


def _limits(field: fields.Field[Any], *, ret: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Mark limits that are not allowed themselves."""
    for rule in field.validators:
        if isinstance(rule, validate.Range) and rule.min is not None and not rule.min_inclusive:
            ret["exclusiveMinimum"] = ret.pop("minimum")
    return {}


def _pattern(_: fields.Field[Any], *, ret: Mapping[str, Any], **__: Any) -> dict[str, str]:
    """Translate a pattern: JSON Schema searches the whole text, and has only `$` for its end."""
    if "pattern" not in ret:
        return {}
    return {"pattern": "^" + ret["pattern"].removeprefix("^").replace(r"\Z", "$")}
