"""The params of captions: exactly one source, and a style. Can be imported by a gateway without FFmpeg."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.subtitles.style import StyleParams

MAX_SUBTITLES = 500_000
MAX_WORDS = 20_000
MAX_HOURS = 24
SOURCES = ("url_srt", "subtitles", "words")

_seconds = validate.Range(min=0, max=MAX_HOURS * 3600 * 1000)  # milliseconds, which are recognised, are no larger


class WordParams(ForgivingSchema):
    word = fields.String(
        required=True,
        validate=validate.Length(min=1, max=200),
        metadata={"description": "The word as it is shown.", "verbatim": True},  # a leading space begins a word
    )
    start = fields.Float(allow_none=True, validate=_seconds, metadata={"description": "When it begins, in seconds."})
    end = fields.Float(allow_none=True, validate=_seconds, metadata={"description": "When it ends, in seconds."})

    @validates_schema
    def _in_order(self, data: dict[str, Any], **_: Any) -> None:
        start, end = data.get("start"), data.get("end")
        if start is not None and end is not None and end < start:
            raise ValidationError("Must not be before `start`.", "end")


class CaptionsParams(ForgivingSchema):
    """What captions say and how they look."""

    exactly_one_of = SOURCES

    url_srt = Asset("subtitles", metadata={"description": "URL of the subtitles: SRT, WebVTT or ASS."})
    subtitles = fields.String(
        validate=validate.Length(min=1, max=MAX_SUBTITLES),
        metadata={"description": "The subtitles as text: SRT, WebVTT or ASS.", "verbatim": True},
    )
    words = fields.List(
        fields.Nested(WordParams),
        validate=validate.Length(min=1, max=MAX_WORDS),
        metadata={"description": "Spoken words with their times, which are grouped into captions."},
    )
    style = fields.Nested(
        StyleParams, metadata={"description": "How the captions look. Fields that are not set come from the preset."}
    )

    @validates_schema
    def _words_have_times(self, data: dict[str, Any], **_: Any) -> None:
        words = data.get("words", [])
        if words and all(word.get(key) is None for word in words for key in ("start", "end")):
            raise ValidationError("No word has a time.", "words")
