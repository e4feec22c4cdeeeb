"""Burns captions into a video, in a style of your choice, optionally highlighting word by word.

Captions come from exactly one of a subtitle file (`url_srt`), subtitles as text (`subtitles`) or a list of words with
their times (`words`). Files and texts may be SRT, WebVTT or ASS, detected from their content. Every cue is shown from
its start to its end, exactly; sizes follow the video, and long lines are broken evenly within the margins. Captions
that the file places at the top or in the middle (`{\\an8}`, WebVTT's `line`) stay there unless `style.position` is set.
Slide shows, screen recordings that pause and a last frame that stays while the sound goes on get frames where captions
begin and end, so that every caption is seen while it lasts.

A file that is not UTF-8 is read in the encoding that its text suggests. Cues that all begin whole hours too late, and
words with times in milliseconds, are moved into the video. A word without `start` or `end`, such as a number that an
alignment model does not know, gets the time between its neighbours. `warnings` says so, and when cues lie outside the
video; a job without any cue inside it fails.

With `highlight`, the word being spoken is coloured (`word`), or words fill with colour as they are spoken (`karaoke`).
The times come from `words`, from the `\\k` tags of ASS or the timestamps of WebVTT; for SRT, a cue's time is divided
among its words by their length.

The font is one that is installed on the worker (`style.font`), or any TTF or OTF by URL (`style.url_font`). Scripts
that it lacks are drawn in Noto.

Presets: `classic`, `bold`, `box`, `karaoke`, `pop` (large, current word coloured, for vertical video) and `minimal`.

The video may have up to 4096x2304 pixels and last up to four hours. All frames and their times are kept; rotation is
applied and HDR becomes SDR. AAC and MP3 sound, which every player supports, is copied; any other becomes AAC. Of
several sound tracks the default one is kept, or the first that can be decoded. Problems that did not stop the job are
listed in the result's `warnings`.
"""

from __future__ import annotations

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.engine.subtitles.params import CaptionsParams
from ffmpeg_ops.operation import VIDEO, Operation, Weight


class _Video(ForgivingSchema):
    url_video = Asset("video", required=True, metadata={"description": "URL of the video."})


class CaptionParams(CaptionsParams, _Video):  # marshmallow lists the fields of the last base first
    encoding = encoding_param()


_URL = {"url_video": "https://example.com/video.mp4"}

OPERATION = Operation(
    name="caption",
    package=__name__,
    params=CaptionParams,
    outputs=lambda params: VIDEO,
    weight=Weight.GPU,
    examples=(
        {**_URL, "url_srt": "https://example.com/captions.srt"},
        {
            **_URL,
            "subtitles": "WEBVTT\n\n00:00.500 --> 00:02.000\n<00:00.500>Bom <00:01.100>dia!\n",
            "style": {"preset": "karaoke", "highlight_color": "#00E5FF"},
        },
        {
            **_URL,
            "words": [
                {"word": "Every", "start": 0.4, "end": 0.7},
                {"word": "word", "start": 0.7, "end": 1.0},
                {"word": "counts.", "start": 1.1, "end": 1.6},
            ],
            "style": {"preset": "pop", "position": "middle-center"},
            "encoding": {"codec": "hevc", "quality": "high"},
        },
    ),
)
