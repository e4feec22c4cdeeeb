"""Joins sounds into one file, or converts a single one.

The sounds follow each other in the order of `url_audios`, with `gap` seconds of silence between them, exact to the
sample. A video gives its sound. Everything becomes stereo at 48 kHz: AAC at 192 kbit/s in `m4a`, MP3 at 192 kbit/s, or
`wav` with 16 bits. Players skip what the encoders of M4A and MP3 add at the start, and most of them what they add at
the end; where every sample counts, use `wav`.

`result` has `duration_s` and `starts`, the seconds at which each sound begins. All together may last up to four hours.
Of several sound tracks in a file the default one is used, or the first that can be decoded, with a warning.
"""

from marshmallow import fields, validate

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.params import choice, number
from ffmpeg_ops.operation import Operation, Weight
from wire.media_types import M4A, MP3, WAV

FORMATS = {"m4a": M4A, "mp3": MP3, "wav": WAV}
MAX_SOUNDS = 100
MAX_GAP_S = 60
LOUDNESS_LUFS = (-40, -5)


class AudioParams(ForgivingSchema):
    url_audios = fields.List(
        Asset("audio"),
        required=True,
        validate=validate.Length(1, MAX_SOUNDS),
        metadata={"description": "URLs of the sounds in their order: any audio or video files."},
    )
    format = choice(FORMATS, "Format of the file.", "m4a")
    gap = number(0, MAX_GAP_S, "Silence between two sounds in seconds.", 0.0, " seconds")
    loudness = number(
        *LOUDNESS_LUFS,
        "Loudness of the whole in LUFS, ±1 LU, with true peaks below −1 dBTP. By default it is not changed.",
        None,
        " LUFS",
    )


_URL = "https://example.com/narration.mp3"

OPERATION = Operation(
    name="audio",
    package=__name__,
    params=AudioParams,
    outputs=lambda params: {"audio": FORMATS[params["format"]]},
    weight=Weight.LIGHT,
    examples=(
        {"url_audios": [_URL]},
        {"url_audios": [_URL, "https://example.com/second.wav"], "gap": 0.5, "format": "wav"},
        {"url_audios": ["https://example.com/video.mp4"], "format": "mp3", "loudness": -14},
    ),
    result_example={"duration_s": 12.48, "starts": [0.0]},
)
