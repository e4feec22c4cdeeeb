"""Says what is in a video or sound file.

The job makes no file. Its `result` has `container` (FFmpeg's name), `duration_s` (the longest of picture and sound, by
what is there where the header says nothing reliable), `size_bytes`, for MP4 and MOV `faststart` (whether players can
begin before they have the whole file), and `streams`, each with:

- `type` (`video`, `audio`, `subtitle`, `data`, `attachment`), `codec`, `language`, `duration_s` and `default`;
- of a video `width` and `height` as players show it, in square pixels, `rotation` (how many degrees clockwise a player
  turns it: 0, 90, 180 or 270), `frame_rate`, `frames` as the header counts them, `hdr` and `cover` (the picture of a
  song);
- of a sound `channels`, `layout` and `sample_rate`.

What is not known is left out. With `loudness`, `loudness_lufs` (integrated, EBU R128) and `true_peak_dbtp` of the sound
that players choose are measured; both are null for silence, or without sound.
"""

from marshmallow import fields

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.operation import Operation, Weight


class ProbeParams(ForgivingSchema):
    url_media = Asset("media", required=True, metadata={"description": "URL of a video or sound."})
    loudness = fields.Boolean(
        load_default=False,
        metadata={"description": "Whether loudness and true peak are measured, for which all of the sound is decoded."},
    )


_URL = {"url_media": "https://example.com/video.mp4"}

OPERATION = Operation(
    name="probe",
    package=__name__,
    params=ProbeParams,
    outputs=lambda params: {},
    weight=Weight.LIGHT,
    examples=(_URL, {**_URL, "loudness": True}),
    result_example={
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "duration_s": 9.92,
        "size_bytes": 4_812_345,
        "streams": [
            {
                "type": "video",
                "codec": "h264",
                "duration_s": 9.92,
                "default": True,
                "width": 1080,
                "height": 1920,
                "rotation": 90,
                "frame_rate": 25.0,
                "frames": 248,
                "hdr": False,
                "cover": False,
            },
            {
                "type": "audio",
                "codec": "aac",
                "language": "por",
                "duration_s": 9.92,
                "default": True,
                "channels": 2,
                "layout": "stereo",
                "sample_rate": 48000,
            },
        ],
        "faststart": True,
    },
)
