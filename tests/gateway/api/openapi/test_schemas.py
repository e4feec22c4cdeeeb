"""`Plugin`: what the JSON Schema says of fields."""

from __future__ import annotations

from typing import Any

import pytest
from apispec import APISpec
from jsonschema import Draft202012Validator
from marshmallow import fields, validate

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.caption import CaptionParams
from ffmpeg_ops.operation import OPERATIONS
from gateway.api import job_request
from gateway.api.openapi.schemas import Plugin, ResponseSchema
from wire.envelope import Rfc3339


class Params(ForgivingSchema):
    url_video = Asset("video", required=True)
    duration = fields.Float(validate=validate.Range(min=0, max=60, min_inclusive=False))
    start = fields.Float(validate=validate.Range(min=0))
    color = fields.String(validate=validate.Regexp(r"#[0-9]{6}\Z"))


class Answer(ResponseSchema):
    at = Rfc3339(required=True)


def converted(*schemas: Any) -> dict[str, Any]:
    """The components of a document with these schemas."""
    spec = APISpec("", "", "3.1.0", [Plugin()])
    for schema in schemas:
        spec.components.schema(schema.__name__, schema=schema)
    return spec.to_dict()["components"]["schemas"]  # type: ignore[no-any-return]


def test_fields_say_their_format_limits_and_pattern() -> None:
    schema = converted(Params)["Params"]
    assert schema["required"] == ["url_video"] and schema["additionalProperties"] is False
    found = schema["properties"]
    assert (found["url_video"]["type"], found["url_video"]["format"]) == ("string", "uri")
    assert found["duration"] == {"type": "number", "exclusiveMinimum": 0, "maximum": 60}
    assert found["start"] == {"type": "number", "minimum": 0}
    assert found["color"]["pattern"] == "^#[0-9]{6}$"


def test_responses_are_open() -> None:
    schema = converted(Answer)["Answer"]
    assert schema == {
        "type": "object",
        "properties": {"at": {"type": "string", "format": "date-time"}},
        "required": ["at"],
    }


def test_exactly_one_of_becomes_complete_alternatives() -> None:
    """Generators ignore the fields beside a `oneOf`."""
    schema = converted(CaptionParams)["CaptionParams"]
    assert set(schema) == {"oneOf"}
    chosen = [set(form["properties"]) for form in schema["oneOf"]]
    assert [form["title"] for form in schema["oneOf"]] == [
        f"CaptionParamsWith{name}" for name in ("UrlSrt", "Subtitles", "Words")
    ]
    common = {"url_video", "style", "encoding"}
    assert chosen == [common | {"url_srt"}, common | {"subtitles"}, common | {"words"}]
    assert schema["oneOf"][0]["required"] == ["url_srt", "url_video"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_params_that_are_refused_do_not_fit_the_schema_either(name: str) -> None:
    operation = OPERATIONS[name]
    params = type(job_request.schema(operation))
    schemas = converted(params)
    document = {"$ref": f"#/components/schemas/{params.__name__}", "components": {"schemas": schemas}}
    check = Draft202012Validator(document)
    minimal = dict(operation.examples[0])
    assert check.is_valid(minimal)
    wrong: list[dict[str, Any]] = [{"unknown": 1}, {"filename": "a/b"}, {"reference": "x" * 201}]
    wrong += [
        {field: value} for field, values in REFUSED.items() if field in operation.params().fields for value in values
    ]
    wrong += [{"url_srt": "https://example.com/s.srt", "subtitles": "x"}] if name == "caption" else []
    for change in wrong:
        assert job_request.schema(operation).validate({**minimal, **change}), change
        assert not check.is_valid({**minimal, **change}), change


REFUSED: dict[str, list[Any]] = {
    "duration": [0, -1],
    "size": ["16:10", "1920*1080", "1921x1080", "x1080", "1x2"],
    "background": ["red", "#12345", "#1234567", "blur "[:4] + "!"],
    "format": ["tiff"],
    "at": [-1, "end", []],
}
