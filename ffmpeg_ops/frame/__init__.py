"""Takes frames out of a video as pictures.

`at` names one moment, or a list of up to 100: seconds from the first frame, `first`, `middle` or `last`. Each gives
the frame that a player shows then; `last` is the last one that can be decoded, whatever the header says. A moment after
the end is an error. With one moment the output is called `frame`, with a list `frame_1`, `frame_2` and so on;
`result.times` says when the frames are shown, in seconds.

Pictures have the size and shape that players show: rotation and the shape of pixels are applied, HDR becomes SDR, and
with `width` they are scaled. A frame that cannot be decoded is replaced by the one before it, with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.params import choice, integer
from ffmpeg_ops.operation import Operation, Outputs, Weight
from wire.media_types import JPEG, PNG, WEBP

PLACES = ("first", "middle", "last")
FORMATS = {"jpeg": JPEG, "png": PNG, "webp": WEBP}
MAX_FRAMES = 100
MAX_AT_S = 4 * 3600
MAX_WIDTH = 4096
Moment = float | str
_MOMENT = {"anyOf": [{"type": "number", "minimum": 0, "maximum": MAX_AT_S}, {"type": "string", "enum": list(PLACES)}]}


class Moments(fields.Field[Moment | list[Moment]]):
    """A moment of a video, or a list of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Moment | list[Moment]:
        if not isinstance(value, list):
            return _moment(value)
        if not 1 <= len(value) <= MAX_FRAMES:
            raise ValidationError(f"Must be one moment, or a list of 1 to {MAX_FRAMES}.")
        found: list[Moment] = []
        wrong: dict[int, list[str]] = {}
        for i, item in enumerate(value):
            try:
                found.append(_moment(item))
            except ValidationError as error:
                wrong[i] = [str(message) for message in error.messages]
        if wrong:
            raise ValidationError(wrong)
        return found


def _moment(value: Any) -> Moment:
    if isinstance(value, str) and value.strip() in PLACES:
        return value.strip()
    try:
        if isinstance(value, bool):
            raise ValueError
        seconds = float(value)
    except (TypeError, ValueError):
        raise ValidationError(f"Must be seconds, or one of: {', '.join(PLACES)}.") from None
    if not 0 <= seconds <= MAX_AT_S:
        raise ValidationError(f"Must be from 0 to {MAX_AT_S} seconds.")
    return seconds


class FrameParams(ForgivingSchema):
    url_video = Asset("video", required=True, metadata={"description": "URL of the video."})
    at = Moments(
        load_default="middle",
        metadata={
            "description": "Which frames: seconds from the first one, `first`, `middle`, `last`, or a list of them.",
            "anyOf": [*_MOMENT["anyOf"], {"type": "array", "items": _MOMENT, "minItems": 1, "maxItems": MAX_FRAMES}],
        },
    )
    format = choice(FORMATS, "Format of the pictures.", "jpeg")
    width = integer(16, MAX_WIDTH, "Width of the pictures in pixels; the height follows. By default that of the video.")


def moments(params: Mapping[str, Any]) -> dict[str, Moment]:
    """Name of an output → its moment, for loaded params."""
    at = params["at"]
    return {f"frame_{i}": moment for i, moment in enumerate(at, 1)} if isinstance(at, list) else {"frame": at}


def _outputs(params: Mapping[str, Any]) -> Outputs:
    return dict.fromkeys(moments(params), FORMATS[params["format"]])


_URL = {"url_video": "https://example.com/video.mp4"}

OPERATION = Operation(
    name="frame",
    package=__name__,
    params=FrameParams,
    outputs=_outputs,
    weight=Weight.LIGHT,
    examples=(
        _URL,
        {**_URL, "at": "last", "format": "png"},
        {**_URL, "at": ["first", 1.5, "last"], "format": "webp", "width": 640},
    ),
    result_example={"times": [4.96], "width": 1920, "height": 1080},
)
