"""Adds a sound track to a video.

The new sound replaces the video's own, or is mixed with it. By default it is cut, or extended with silence, to the
exact length of the video.

- The video stream is copied unchanged where possible. It is encoded only where MP4 players do not know its codec (VP9,
  MPEG-4 ASP and older ones), where the picture changes its size, where an MP4 or FLV describes its codec more than
  once, where an AVI has B-frames or is cut, where a raw stream has no timestamps, and where `length` is audio and the
  sound is longer than the video: then the last frame stays on screen until the end. With `encoding` it is also encoded
  where that names another `codec` or a `quality`, and where a copy would exceed `max_bytes`. A video that is encoded
  may have up to 4096x2304 pixels, and HDR becomes SDR.
- Only what an edit list shows is used, and all parts of a transport stream, WebM or FLV that was joined byte by byte.
  A video that is cut inside a long still frame ends with the sound.
- Videos may last up to four hours. Parts of a damaged source that cannot be decoded are counted in `warnings`; the job
  fails when less than 98 % of the frames can be read.
- The sound becomes AAC, stereo, 48 kHz, 192 kbit/s. A new sound that is already mono or stereo AAC is copied when it
  replaces the old one and nothing but its length is changed.
- Of several sound tracks in a file the default one is used, or the first that can be decoded, with a warning.
- A video without sound, or whose sound cannot be decoded, gets the new one, whatever `mode` says.
- Where two sounds are mixed, or the new one is made louder or has more than two channels, peaks are limited to −1 dBFS,
  so that nothing clips.
"""

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, validates_schema

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.engine.params import choice, number
from ffmpeg_ops.operation import VIDEO, Operation, Weight

MODES = ("replace", "mix")
LENGTHS = ("video", "audio", "shortest")
DUCKED = ("none", "new", "original")
MAX_VOLUME = 10
MAX_START_S = 14400
MAX_FADE_S = 60
LOUDNESS_LUFS = (-40, -5)


class AdicionaAudioParams(ForgivingSchema):
    url_video = Asset("video", required=True, metadata={"description": "URL of the video."})
    url_audio = Asset(
        "audio", required=True, metadata={"description": "URL of the new sound, any audio or video file."}
    )
    mode = choice(MODES, "What happens to the video's own sound: `replace` drops it, `mix` keeps it.", "replace")
    volume = number(
        0, MAX_VOLUME, "Volume of the new sound as a factor: 1 keeps it, 0.5 is −6 dB, 2 is +6 dB, 0 is silence.", 1.0
    )
    original_volume = number(0, MAX_VOLUME, "Volume of the video's own sound as a factor, for mode `mix`.", 1.0)
    start = number(0, MAX_START_S, "When the new sound begins, in seconds of the video.", 0.0, " seconds")
    loop = fields.Boolean(
        load_default=False,
        metadata={"description": "Repeats a short sound until the video ends; otherwise it is followed by silence."},
    )
    length = choice(
        LENGTHS,
        "How long the result lasts: as long as the `video`, as the new `audio` including its start (the video is cut, "
        "or its last frame stays on screen), or as the `shortest` of the two.",
        "video",
    )
    fade_in = number(0, MAX_FADE_S, "Seconds over which the new sound fades in from its start.", 0.0, " seconds")
    fade_out = number(
        0, MAX_FADE_S, "Seconds over which the new sound fades out before it ends or is cut.", 0.0, " seconds"
    )
    ducking = choice(
        DUCKED,
        "Which sound is lowered while the other is heard, for mode `mix`: `new` for music under the speech of the "
        "video, `original` for the video's sound under a new narration.",
        "none",
    )
    loudness = number(
        *LOUDNESS_LUFS,
        "Loudness of the finished sound in LUFS, ±1 LU, with true peaks below −1 dBTP: −14 suits streaming sites, −23 "
        "broadcast. By default the loudness is not changed.",
        None,
        " LUFS",
    )
    encoding = encoding_param()

    @validates_schema
    def _fit_together(self, params: Mapping[str, Any], **_: Any) -> None:
        if params["ducking"] != "none" and params["mode"] != "mix":
            raise ValidationError("Needs mode mix: only then are there two sounds.", "ducking")
        if params["original_volume"] != 1 and params["mode"] != "mix":
            raise ValidationError("Needs mode mix: the original sound is dropped.", "original_volume")
        if params["loop"] and params["length"] != "video":
            raise ValidationError("Needs length video: a repeated sound has no end of its own.", "loop")


_URLS = {"url_video": "https://example.com/video.mp4", "url_audio": "https://example.com/narration.mp3"}

OPERATION = Operation(
    name="adicionaAudio",
    package=__name__,
    params=AdicionaAudioParams,
    outputs=lambda params: VIDEO,
    weight=Weight.LIGHT_FIRST,
    examples=(
        _URLS,
        {**_URLS, "mode": "mix", "volume": 0.4, "loop": True, "fade_in": 1, "fade_out": 3, "ducking": "new"},
        {**_URLS, "start": 2.5, "length": "audio", "loudness": -14},
        {**_URLS, "encoding": {"max_bytes": 16000000}},
    ),
)
