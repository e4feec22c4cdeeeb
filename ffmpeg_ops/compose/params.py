"""The params of a film: its scenes, sounds, captions and overlays. Can be imported by a gateway without FFmpeg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, post_dump, validate, validates_schema

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine import picture_params
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.engine.overlays.params import MAX_IN_FILM, overlays_param
from ffmpeg_ops.engine.params import choice, number
from ffmpeg_ops.engine.subtitles.params import CaptionsParams

MAX_FILM_SECONDS = 900
MAX_SCENES = 200
MAX_CLIP_S = 4 * 3600
MAX_TRANSITION_S = 2
MAX_VOLUME = 10
LOUDNESS_LUFS = (-40, -5)
TRANSITIONS = ("fade", "crossfade", "slide_left", "slide_right", "slide_up", "slide_down", "wipe")
WHEN_SHORT = ("freeze", "loop")
SOURCES = ("url_image", "url_video", "color")
# Which fields belong to one kind of source only.
_STILL = ("motion", "amount", "focus_x", "focus_y", "easing")
_CLIP = ("start", "volume", "when_short")
_FITTED = ("fit", "background")
_ALLOWED = {"url_image": {*_STILL, *_FITTED}, "url_video": {*_CLIP, *_FITTED}, "color": set[str]()}


class NarrationParams(ForgivingSchema):
    """A voice."""

    url_audio = Asset("audio", required=True, metadata={"description": "URL of the voice, any audio or video file."})
    start = number(0, MAX_FILM_SECONDS, "When the voice begins, in seconds of its scene or film.", 0.0, " seconds")
    volume = number(0, MAX_VOLUME, "Volume as a factor: 1 keeps it, 0.5 is −6 dB.", 1.0)


class MusicParams(ForgivingSchema):
    """Music under the whole film."""

    url_audio = Asset("audio", required=True, metadata={"description": "URL of the music, any audio or video file."})
    volume = number(
        0, MAX_VOLUME, "Volume as a factor. By default 0.2 where there is any narration, otherwise 1.", None
    )
    ducking = fields.Boolean(
        load_default=True,
        metadata={"description": "Lowers the music while a narration or a clip's own sound is heard."},
    )
    loop = fields.Boolean(load_default=True, metadata={"description": "Repeats the music until the film ends."})
    fade_out = number(0, 60, "Seconds over which the music fades out before it ends.", 0.0, " seconds")


class TransitionParams(ForgivingSchema):
    """How a scene comes in."""

    type = choice(
        TRANSITIONS,
        "`fade` goes through black, `crossfade` blends, a `slide_…` pushes the old scene out in that direction, `wipe` "
        "uncovers the new one from left to right. The first scene can only `fade` in, from black.",
        "crossfade",
    )
    duration = picture_params.duration_param(
        MAX_TRANSITION_S, "How long it takes, at the beginning of the scene, in seconds.", 0.5
    )


class SceneParams(ForgivingSchema):
    """One scene: a still, a clip or a colour."""

    url_image = Asset("image", metadata={"description": "URL of a still: JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF."})
    url_video = Asset("video", metadata={"description": "URL of a clip."})
    color = fields.String(
        validate=validate.Regexp(rf"{picture_params.COLOR}\Z", error="Must be a colour like #1A2B3C."),
        metadata={"description": "A plain colour, #RRGGBB."},
    )
    duration = picture_params.duration_param(
        MAX_FILM_SECONDS,
        "Length of the scene in seconds. By default it lasts as long as its narration, or else as its clip; scenes "
        "that have neither share what the film's narration leaves, or last 5 seconds.",
    )
    start = number(0, MAX_CLIP_S, "For a clip: where in it the scene begins, in seconds.", 0.0, " seconds")
    volume = number(
        0,
        MAX_VOLUME,
        "For a clip: volume of its own sound as a factor. By default 1, and 0 where its scene or the film has "
        "narration.",
        None,
    )
    when_short = choice(
        WHEN_SHORT, "For a clip that ends before its scene: its last frame stays, or it starts again.", "freeze"
    )
    motion = picture_params.motion_param()
    amount = picture_params.amount_param()
    focus_x = picture_params.focus_x_param()
    focus_y = picture_params.focus_y_param()
    easing = picture_params.easing_param()
    fit = picture_params.fit_param("a still or clip")
    background = picture_params.background_param("it")
    narration = fields.Nested(NarrationParams, metadata={"description": "A voice that is heard in this scene."})
    pause_after = number(0, 60, "Seconds that the scene goes on after its narration.", 0.0, " seconds")
    overlays = overlays_param("scene")
    transition = fields.Nested(TransitionParams, metadata={"description": "How the scene comes in; by default a cut."})

    exactly_one_of = SOURCES

    @validates_schema(pass_original=True)
    def _suits_its_source(self, data: dict[str, Any], original: Any, **_: Any) -> None:
        given = [name for name in SOURCES if name in data]
        if len(given) != 1:
            return
        wrong = [name for name in _foreign(given[0]) if _is_set(original.get(name))]
        if wrong:
            raise ValidationError({name: [f"Does not belong to a scene of {given[0]}."] for name in wrong})
        if data["pause_after"] and "narration" not in data:
            raise ValidationError("Needs a narration of this scene.", "pause_after")

    @post_dump
    def _of_its_kind(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Without the defaults of fields that a scene of this source must not have."""
        source = next(name for name in SOURCES if name in data)
        return {name: value for name, value in data.items() if name not in _foreign(source)}


def _foreign(source: str) -> list[str]:
    """The fields that belong to scenes of other sources only."""
    return [name for name in (*_STILL, *_CLIP, *_FITTED) if name not in _ALLOWED[source]]


def _is_set(value: Any) -> bool:
    return value is not None and value != ""


class PosterParams(ForgivingSchema):
    """A picture of the film."""

    at = number(0, MAX_FILM_SECONDS, "Which moment of the film it shows, in seconds.", 0.0, " seconds")


class ComposeParams(ForgivingSchema):
    size = picture_params.size_param("9:16")
    frame_rate = picture_params.frame_rate_param(30.0)
    scenes = fields.List(
        fields.Nested(SceneParams),
        required=True,
        validate=validate.Length(1, MAX_SCENES),
        metadata={"description": "The scenes in their order; each is a still, a clip or a colour."},
    )
    narration = fields.Nested(NarrationParams, metadata={"description": "A voice over the whole film."})
    music = fields.Nested(MusicParams, metadata={"description": "Music under the whole film."})
    captions = fields.Nested(CaptionsParams, metadata={"description": "Captions over the film, as in `caption`."})
    overlays = overlays_param("film")
    tail = number(0, 60, "Seconds by which the last scene without `duration` is longer.", 0.0, " seconds")
    fade_out = number(0, 60, "Seconds over which picture and sound fade out at the end.", 0.0, " seconds")
    poster = fields.Nested(PosterParams, metadata={"description": "Makes a picture of one moment: output `poster`."})
    loudness = number(
        *LOUDNESS_LUFS,
        "Loudness of the finished sound in LUFS, ±1 LU: −14 suits streaming sites. By default it is not changed.",
        None,
        " LUFS",
    )
    encoding = encoding_param()

    @validates_schema
    def _fits(self, data: Mapping[str, Any], **_: Any) -> None:
        scenes = data["scenes"]
        first = scenes[0].get("transition")
        if first is not None and first["type"] != "fade":
            message = "Nothing comes before the first scene, which can only fade in."
            raise ValidationError({"scenes": {0: {"transition": {"type": [message]}}}})
        if all("duration" in scene for scene in scenes):
            total_s = sum(scene["duration"] for scene in scenes)
            if data["tail"]:
                raise ValidationError("Needs a scene without `duration`, which it makes longer.", "tail")
            if total_s > MAX_FILM_SECONDS:
                raise ValidationError(
                    f"The film lasts {total_s:g} s; at most {MAX_FILM_SECONDS} are allowed.", "scenes"
                )
        count = sum(len(owner.get("overlays", [])) for owner in (data, *scenes))
        if count > MAX_IN_FILM:
            raise ValidationError(f"The film has {count} overlays; at most {MAX_IN_FILM} are allowed.", "overlays")
