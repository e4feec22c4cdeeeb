"""Puts pictures side by side.

An operation that exists in the tests only: it has nested lists of assets of three kinds, two pictures, a document and a
result, and encodes nothing.
"""

from __future__ import annotations

from marshmallow import fields, validate

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.operation import Operation, Weight
from wire.media_types import JPEG, JSON, PNG

FAULTS = (
    "missing",
    "empty",
    "link",
    "wrong_type",
    "undeclared_output",
    "undeclared_figure",
    "large_result",
    "deep_result",
    "no_object",
)


class SoundParams(ForgivingSchema):
    url_audio = Asset("audio", required=True, metadata={"description": "URL of a sound."})


class CollageSceneParams(ForgivingSchema):
    url_image = Asset("image", required=True, metadata={"description": "URL of a picture."})
    narration = fields.Nested(SoundParams, metadata={"description": "What is said."})


class CollageParams(ForgivingSchema):
    scenes = fields.List(
        fields.Nested(CollageSceneParams),
        required=True,
        validate=validate.Length(min=1),
        metadata={"description": "The pictures from left to right."},
    )
    url_texts = fields.List(Asset("subtitles"), metadata={"description": "URLs of texts."})
    fault = fields.String(validate=validate.OneOf(FAULTS), metadata={"description": "What the operation gets wrong."})


OPERATION = Operation(
    name="collage",
    package=__name__,
    params=CollageParams,
    outputs=lambda params: {"sheet": PNG, "poster": JPEG, "report": JSON},
    weight=Weight.LIGHT,
    examples=({"scenes": [{"url_image": "https://example.com/photo.jpg"}]},),
)
