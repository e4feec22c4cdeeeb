"""Cuts parts out of a video, exact to the frame and the sample.

`start` and `end`, or `start` and `duration`, say what is kept, in seconds from the first frame; without `end` and
`duration` that is everything after `start`. `parts` keeps several parts instead, one after another in their order. The
first frame of a part is the one that is shown at its `start`, and its sound is exactly as long as its picture. An `end`
after the video's is moved there, with a warning; a `start` there is an error.

The parts are encoded once, at the frame rate of the video: a variable rate becomes constant. Rotation and the shape of
pixels are applied, HDR becomes SDR, the sound becomes AAC at 48 kHz. `result.parts` are the seconds of the video at
which each part begins and ends.
"""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.engine.params import number
from ffmpeg_ops.engine.picture_params import duration_param
from ffmpeg_ops.operation import VIDEO, Operation, Weight

MAX_S = 4 * 3600
MAX_PARTS = 100
_TIMES = ("start", "end", "duration")


class PartParams(ForgivingSchema):
    start = number(0, MAX_S, "Where the part begins, in seconds. By default at the first frame.")
    end = number(0, MAX_S, "Where the part ends, in seconds. By default at the end of the video.")
    duration = duration_param(MAX_S, "Length of the part in seconds, instead of `end`.")

    @validates_schema
    def _one_end(self, data: dict[str, Any], **_: Any) -> None:
        if "end" in data and "duration" in data:
            raise ValidationError("Give `end` or `duration`, not both.", "duration")
        if "end" in data and data["end"] <= data.get("start", 0.0):
            raise ValidationError("Must be after `start`.", "end")


class TrimParams(PartParams):
    url_video = Asset("video", required=True, metadata={"description": "URL of the video."})
    parts = fields.List(
        fields.Nested(PartParams),
        validate=validate.Length(min=1, max=MAX_PARTS),
        metadata={"description": "The parts that are kept, in their order, instead of a single one."},
    )
    encoding = encoding_param()

    @validates_schema
    def _one_kind(self, data: dict[str, Any], **_: Any) -> None:
        given = [name for name in _TIMES if name in data]
        if "parts" in data and given:
            raise ValidationError("Give `parts` or a single part, not both.", given[0])
        if "parts" not in data and not given:
            raise ValidationError("Give `start`, `end`, `duration` or `parts`.", "start")


_URL = {"url_video": "https://example.com/video.mp4"}

OPERATION = Operation(
    name="trim",
    package=__name__,
    params=TrimParams,
    outputs=lambda params: VIDEO,
    weight=Weight.GPU,
    examples=(
        {**_URL, "start": 2.5},
        {**_URL, "start": 2.5, "end": 8},
        {**_URL, "parts": [{"end": 3}, {"start": 10, "duration": 2.5}], "encoding": {"quality": "high"}},
    ),
)
