"""`ForgivingSchema`: what is taken as not set, trimmed, or taken as a number."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError, fields, validate

from common.forgiving import ForgivingSchema


class Inner(ForgivingSchema):
    name = fields.String(required=True)
    word = fields.String(metadata={"verbatim": True})


class Outer(ForgivingSchema):
    count = fields.Integer(strict=True)
    share = fields.Float(load_default=0.5, allow_none=True)
    mode = fields.String()
    renamed = fields.String(data_key="shown")
    inner = fields.Nested(Inner)
    many = fields.List(fields.Nested(Inner))


@pytest.mark.parametrize(
    ("given", "loaded"),
    [
        ({"count": None, "share": None, "mode": None, "shown": None, "inner": None, "many": None}, {"share": 0.5}),
        ({"count": "", "share": "", "mode": " \n", "shown": "", "inner": "", "many": ""}, {"share": 0.5}),
        ({"count": " 42 ", "share": " 0.25", "mode": "\tfast\n"}, {"count": 42, "share": 0.25, "mode": "fast"}),
        ({"count": "-7", "shown": " x y "}, {"count": -7, "share": 0.5, "renamed": "x y"}),
        (
            {"many": [{"name": " a ", "word": " b"}, {"name": "c", "word": None}]},
            {"share": 0.5, "many": [{"name": "a", "word": " b"}, {"name": "c"}]},
        ),
    ],
)
def test_what_is_unambiguous_is_taken(given: dict[str, Any], loaded: dict[str, Any]) -> None:
    before = str(given)
    assert Outer().load(given) == loaded
    assert str(given) == before, "the input is left as it is"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"inner": {"name": None}}, {"inner": {"name": ["Missing data for required field."]}}),
        ({"many": [None]}, {"many": {0: ["Field may not be null."]}}),
        ({"mode": 7}, {"mode": ["Not a valid string."]}),
        ({"unknown": None}, {"unknown": ["Unknown field."]}),
        *[({"count": text}, {"count": ["Not a valid integer."]}) for text in ("4.5", "1e3", "٤", "4 2", "0x4")],
        (["x"], {"_schema": ["Invalid input type."]}),
        (None, {"_schema": ["Invalid input type."]}),
    ],
)
def test_what_is_ambiguous_is_refused(given: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer().load(given)
    assert caught.value.messages == wrong


def test_an_empty_text_is_not_taken_for_a_missing_required_one() -> None:
    assert Inner().load({"name": ""}) == {"name": ""}


def test_the_elements_of_a_list_that_is_too_long_are_not_loaded() -> None:
    loaded = []

    class Counted(fields.String):
        def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
            loaded.append(value)
            return value

    short = fields.List(Counted(), data_key="shown", validate=validate.Length(1, 3))
    schema = ForgivingSchema.from_dict({"short": short, "count": fields.Integer()})
    with pytest.raises(ValidationError) as caught:
        schema().load({"shown": ["a"] * 4, "count": "x"})
    assert caught.value.normalized_messages() == {"shown": ["Length must be between 1 and 3."]}
    assert not loaded
    assert schema().load({"shown": ["a"] * 3}) == {"short": ["a"] * 3}


class Chosen(ForgivingSchema):
    exactly_one_of = ("a", "b", "c")

    a = fields.String()
    b = fields.Integer()
    c = fields.List(fields.String())


def test_exactly_one_of_several_fields_is_set() -> None:
    assert Chosen().load({"a": "x", "b": "", "c": None}) == {"a": "x"}
    for given, said, names in (
        ({}, "none", ["a"]),
        ({"a": ""}, "none", ["a"]),
        ({"b": 1, "c": []}, "b and c", ["b", "c"]),
    ):
        with pytest.raises(ValidationError) as error:
            Chosen().load(given)
        assert error.value.messages == {name: [f"Give exactly one of a, b, c, not {said}."] for name in names}
