"""The param `encoding`, which every operation has: codec, quality and maximum size.

Can be imported by a gateway without FFmpeg; `encoders` maps the values to options of each encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import fields

from common.forgiving import ForgivingSchema
from ffmpeg_ops.engine.params import choice, integer

CODECS = ("h264", "hevc", "av1")
QUALITIES = ("low", "standard", "high", "best")
MIN_BYTES, MAX_BYTES = 10_000, 5_000_000_000


class EncodingParams(ForgivingSchema):
    """How the video is encoded."""

    codec = choice(
        CODECS,
        "Video codec, by default h264. h264 plays everywhere; hevc and av1 make smaller files for newer players, and "
        "encode more slowly without a GPU that supports them.",
    )
    quality = choice(QUALITIES, "Video quality, by default standard. Higher quality makes larger files.")
    max_bytes = integer(
        MIN_BYTES,
        MAX_BYTES,
        "Maximum size of the file in bytes. To fit, the video stream may lose quality, the sound never does; a video "
        "that cannot be made to fit fails with output_too_large.",
    )


@dataclass(frozen=True)
class Encoding:
    """The param `encoding` with its defaults."""

    #: One of CODECS.
    codec: str = "h264"
    #: One of QUALITIES.
    quality: str = "standard"
    #: Maximum size of the output, None for the worker's own limit.
    max_bytes: int | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Encoding:
        """From the validated params of any operation."""
        return cls(**params.get("encoding", {}))


def encoding_param() -> fields.Nested:
    """The field `encoding` for an operation's schema."""
    return fields.Nested(
        EncodingParams, metadata={"description": "Codec, quality and maximum size of the video, all optional."}
    )
