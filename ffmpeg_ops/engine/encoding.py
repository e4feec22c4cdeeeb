"""How the picture is encoded, as far as a client may say: the param `encoding`, the same for every operation.

Light enough for a gateway without FFmpeg; `encoders` has what the words mean for each encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields, validate

CODECS = ("h264", "hevc", "av1")
QUALITIES = ("low", "standard", "high", "best")
MIN_BYTES, MAX_BYTES = 10_000, 5_000_000_000


class EncodingParams(Schema):
    """What is not set: `h264` in `standard` quality, of any size."""

    codec = fields.String(
        validate=validate.OneOf(CODECS),
        metadata={
            "description": "Codec of an encoded picture, h264 if not set. h264 plays everywhere; hevc and av1 "
            "make smaller files for newer players, and take longer without a GPU that has them."
        },
    )
    quality = fields.String(
        validate=validate.OneOf(QUALITIES),
        metadata={"description": "Quality of the picture, standard if not set. Higher ones make larger files."},
    )
    max_bytes = fields.Integer(
        strict=True,
        validate=validate.Range(min=MIN_BYTES, max=MAX_BYTES),
        metadata={
            "description": "Most bytes that the video may have. The picture loses quality where it must, the sound "
            "never does; a video that cannot be made to fit fails with output_too_large."
        },
    )


@dataclass(frozen=True)
class Encoding:
    """What a client said, and the defaults for the rest."""

    codec: str = "h264"
    quality: str = "standard"
    max_bytes: int | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Encoding:
        """The param `encoding` of any operation's validated params."""
        return cls(**params.get("encoding", {}))


def encoding_param() -> fields.Nested:
    """The field `encoding` for an operation's schema."""
    return fields.Nested(
        EncodingParams, metadata={"description": "Codec, quality and largest size of the video. All may be left out."}
    )
