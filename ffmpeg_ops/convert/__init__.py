"""Makes a video of another size, shape, frame rate or codec.

Without params the video becomes an MP4 that plays everywhere, with its frames and their times as they are. `size` sets
another size or shape: `fit` says whether the video is cropped to fill it (`cover`) or shown whole (`contain`) on a
blurred copy of itself or on a colour. `frame_rate` makes the rate constant: every frame of the output is the one that
is shown at its time. `sound: none` leaves the sound out.

Rotation and the shape of pixels are applied, HDR becomes SDR. AAC and MP3 sound, which every player supports, is
copied; any other becomes AAC. The video may have up to 4096x2304 pixels and last up to four hours.
"""

from __future__ import annotations

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.engine.params import choice
from ffmpeg_ops.engine.picture_params import background_param, fit_param, frame_rate_param, size_param
from ffmpeg_ops.operation import VIDEO, Operation, Weight


class ConvertParams(ForgivingSchema):
    url_video = Asset("video", required=True, metadata={"description": "URL of the video."})
    size = size_param(None)
    fit = fit_param("a video")
    background = background_param("the video")
    frame_rate = frame_rate_param(None)
    sound = choice(("keep", "none"), "Whether the sound is kept or left out.", "keep")
    encoding = encoding_param()


_URL = {"url_video": "https://example.com/video.mov"}

OPERATION = Operation(
    name="convert",
    package=__name__,
    params=ConvertParams,
    outputs=lambda params: VIDEO,
    weight=Weight.GPU,
    examples=(
        _URL,
        {**_URL, "size": "9:16", "fit": "contain", "background": "blur"},
        {**_URL, "size": "1:1", "frame_rate": 30, "sound": "none", "encoding": {"codec": "hevc", "quality": "high"}},
    ),
)
