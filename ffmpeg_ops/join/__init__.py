"""Joins videos into one, one after another.

The videos may differ in everything: size, shape, frame rate, rotation, codec, HDR, with sound and without. The result
has the size and the frame rate of the first one, unless `size` or `frame_rate` is set. `fit` says whether a video of
another shape is cropped to fill the picture (`cover`) or shown whole (`contain`) on a blurred copy of itself or on a
colour.

Picture and sound stay in sync, however many videos there are: every sound is exactly as long as its picture, cut or
followed by silence, and boundaries are placed on the sum of all lengths before them. A video that cannot be decoded to
its end stays on its last frame, with a warning; one with less than 98 % of its frames fails the job. Everything is
encoded once, with AAC sound at 48 kHz, and may last up to four hours.

`result.starts` are the seconds at which each video begins.
"""

from __future__ import annotations

from marshmallow import fields, validate

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.engine.picture_params import background_param, fit_param, frame_rate_param, size_param
from ffmpeg_ops.operation import VIDEO, Operation, Weight

MAX_VIDEOS = 100


class JoinParams(ForgivingSchema):
    url_videos = fields.List(
        Asset("video"),
        required=True,
        validate=validate.Length(2, MAX_VIDEOS),
        metadata={"description": "URLs of the videos in their order."},
    )
    size = size_param(None)
    fit = fit_param("a video")
    background = background_param("a video")
    frame_rate = frame_rate_param(None)
    encoding = encoding_param()


_URLS = ["https://example.com/intro.mp4", "https://example.com/scene.mov"]

OPERATION = Operation(
    name="join",
    package=__name__,
    params=JoinParams,
    outputs=lambda params: VIDEO,
    weight=Weight.GPU,
    examples=(
        {"url_videos": _URLS},
        {"url_videos": [*_URLS, _URLS[0]], "size": "9:16", "fit": "contain", "background": "#101820", "frame_rate": 30},
        {"url_videos": _URLS, "encoding": {"quality": "high"}},
    ),
)
