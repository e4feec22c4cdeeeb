"""The params of an overlay: one of a text, a picture and a video. Can be imported by a gateway without FFmpeg."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.params import choice, number
from ffmpeg_ops.engine.subtitles.style import POSITIONS, StyleParams

SOURCES = ("text", "url_image", "url_video")
#: Maximum number in one list, and in a whole film.
MAX_OVERLAYS, MAX_IN_FILM = 50, 500
MAX_TEXT = 2000
MAX_SECONDS = 24 * 3600


class TextStyleParams(StyleParams):
    """The style of captions, without what concerns their place and the words that are spoken."""

    class Meta:
        exclude = ("position", "margin_x", "margin_y", "max_lines", "highlight", "highlight_color")


class OverlayParams(ForgivingSchema):
    """Something that is laid over a scene or a film, at a place and for a time."""

    text = fields.String(
        validate=validate.Length(min=1, max=MAX_TEXT),
        metadata={"description": "A text. Line breaks are kept, and lines that are too long are wrapped."},
    )
    url_image = Asset(
        "image", metadata={"description": "URL of a picture, which may be transparent: also an animated GIF or WebP."}
    )
    url_video = Asset("video", metadata={"description": "URL of a video, shown as a picture in the picture."})
    position = choice(POSITIONS, "Where it is in the frame.", "middle-center")
    x = number(0, 1, "Its middle, from the left edge of the frame (0) to the right (1), instead of by `position`.")
    y = number(0, 1, "The same from the top edge (0) to the bottom (1).")
    margin = number(0, 0.4, "Distance to the edges, as a share of the frame's shorter side.", 0.05)
    width = number(
        0.01,
        1,
        "Its width as a share of the frame's. For a text, the maximum. By default 0.3 for a picture, 0.35 for a video,"
        " and as much as the margins leave for a text.",
    )
    opacity = number(0, 1, "Its opacity; 0 is invisible.", 1.0)
    start = number(0, MAX_SECONDS, "When it appears, in seconds of the scene, or of the film.", 0.0, " seconds")
    end = number(0, MAX_SECONDS, "When it disappears. By default, it stays.", unit=" seconds")
    fade = number(0, 10, "How long it takes to appear, and to disappear.", 0.0, " seconds")
    safe_area = fields.Boolean(
        load_default=False,
        metadata={
            "description": "In tall videos, keeps clear of what TikTok, Reels and Shorts draw over them: names, texts"
            " and buttons. In others it changes nothing."
        },
    )
    volume = number(0, 4, "How loud the video's own sound is; 1 leaves it as it is.", 0.0)
    style = fields.Nested(
        TextStyleParams, metadata={"description": "How a text looks. Fields that are not set come from the preset."}
    )

    exactly_one_of = SOURCES

    @validates_schema
    def _suits_its_source(self, data: dict[str, Any], **_: Any) -> None:
        if "style" in data and "text" not in data:
            raise ValidationError("Only a text has a style.", "style")
        if data["volume"] and "url_video" not in data:
            raise ValidationError("Only a video has a volume.", "volume")
        if "end" in data and data["end"] <= data["start"]:
            raise ValidationError("Must be after `start`.", "end")


def overlays_param(of: str) -> fields.List[Any]:
    """The overlays of a scene or a film."""
    return fields.List(
        fields.Nested(OverlayParams),
        validate=validate.Length(max=MAX_OVERLAYS, error="At most {max} overlays."),
        metadata={"description": f"What is laid over the {of}; later ones are on top."},
    )
