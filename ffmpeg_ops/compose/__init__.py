"""Makes a finished short in one request: scenes, voices, music, captions and overlays.

A scene is a still that the camera moves over, a clip or a colour. It lasts as long as its `duration` says, else as its
narration, else as its clip; the other scenes share what the film's narration leaves, or last 5 seconds. Times inside a
scene count from its beginning. A transition overlaps inside the scene that comes in, so the film is always as long as
the sum of its scenes.

- Lengths and boundaries are exact to the frame, sounds to the sample. A voice that is longer than the duration of its
  scene is an error that names both lengths; nothing is cut in silence.
- A clip's own sound is heard, unless its scene or the film has a narration. Music is repeated and lowered while
  somebody speaks. True peaks stay below −1 dBTP.
- A clip that is too short stays on its last frame, or starts again with `when_short` loop. Rotation, HDR, odd pixels
  and variable rates are handled as in `caption`.
- Overlays of a scene move with its transitions, those of the film do not; captions are on top of all.
- A film may last up to 15 minutes and have up to 200 scenes, 500 files and 500 overlays, of which two videos at a time.

`result.scenes` has the start and the duration of each scene in seconds. With `poster` there is a second output, a JPEG.
"""

from ffmpeg_ops.compose.params import ComposeParams
from ffmpeg_ops.operation import VIDEO, Operation, Weight
from wire.media_types import JPEG

_VOICE = "https://example.com/voice-{}.mp3"

OPERATION = Operation(
    name="compose",
    package=__name__,
    params=ComposeParams,
    outputs=lambda params: {**VIDEO, **({"poster": JPEG} if "poster" in params else {})},
    weight=Weight.GPU,
    examples=(
        {"scenes": [{"url_image": "https://example.com/photo.jpg"}]},
        {
            "scenes": [
                {"url_image": "https://example.com/beach.jpg", "narration": {"url_audio": _VOICE.format(1)}},
                {
                    "url_image": "https://example.com/market.jpg",
                    "narration": {"url_audio": _VOICE.format(2)},
                    "transition": {"type": "crossfade", "duration": 0.5},
                },
            ],
            "music": {"url_audio": "https://example.com/music.mp3"},
            "captions": {"url_srt": "https://example.com/captions.srt", "style": {"preset": "pop"}},
            "loudness": -14,
        },
        {
            "size": "16:9",
            "scenes": [
                {"url_video": "https://example.com/clip.mp4", "start": 2, "duration": 4},
                {"color": "#101820", "duration": 2, "overlays": [{"text": "The end"}], "transition": {"type": "fade"}},
            ],
            "overlays": [{"url_image": "https://example.com/logo.png", "position": "top-right", "width": 0.15}],
            "poster": {"at": 1},
        },
    ),
)
