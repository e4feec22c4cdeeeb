"""Finds the name that was meant, where people and language models guess a field or an operation."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from marshmallow import Schema, fields

MAX_NAME = 64
_SOURCES = ("url_video", "url_image", "url_audio", "url_media", "url_audios")
# Guesses, in lower-case letters and digits only, and the fields that they may mean; the first that is known counts.
FIELD_GUESSES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("url", "uri", "src", "source", "link", "file", "input", "media", "asset"), _SOURCES),
    **dict.fromkeys(("urlvideo", "urlimage", "urlaudio", "urlmedia"), _SOURCES),
    **dict.fromkeys(("video", "clip", "movie", "film", "videofile", "mp4", "inputvideo"), ("url_video",)),
    **dict.fromkeys(("image", "img", "photo", "picture", "pic", "imagefile", "inputimage"), ("url_image",)),
    **dict.fromkeys(
        ("audio", "sound", "music", "voice", "voiceover", "narration", "song", "track", "mp3", "audiofile"),
        ("url_audio", "url_audios"),
    ),
    **dict.fromkeys(
        ("srt", "vtt", "srtfile", "subtitleurl", "subtitlesurl", "captionurl", "captionsurl"), ("url_srt",)
    ),
    **dict.fromkeys(("text", "caption", "captions", "subs", "transcript", "lyrics"), ("subtitles",)),
    **dict.fromkeys(("length", "len", "seconds", "durationseconds", "durations"), ("duration",)),
    **dict.fromkeys(("time", "second", "timestamp", "timecode", "moment", "position"), ("at", "duration")),
    **dict.fromkeys(("fps", "framespersecond", "rate"), ("frame_rate",)),
    **dict.fromkeys(("resolution", "aspectratio", "aspect", "ratio", "dimensions", "orientation"), ("size",)),
    **dict.fromkeys(("zoom", "effect", "animation", "movement", "camera", "pan"), ("motion",)),
    **dict.fromkeys(("fontsize", "textsize"), ("size",)),
    **dict.fromkeys(("fontfamily", "fontname", "typeface"), ("font",)),
    **dict.fromkeys(("fonturl", "fontfile", "ttf", "otf", "fontsrc"), ("url_font",)),
    **dict.fromkeys(("textcolor", "fontcolor", "fontcolour", "colour"), ("color",)),
    **dict.fromkeys(("crf", "bitrate"), ("quality",)),
    **dict.fromkeys(("maxsize", "filesize", "maxfilesize"), ("max_bytes",)),
    **dict.fromkeys(("webhook", "callback", "callbackurl", "hook", "notifyurl"), ("webhook_url",)),
    **dict.fromkeys(("id", "clientid", "externalid", "customid", "metadata", "label", "tag"), ("reference",)),
    **dict.fromkeys(("name", "title", "outputname"), ("filename",)),
}
OPERATION_GUESSES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("image2video", "imagetovideo", "img2video", "i2v", "kenburns", "zoom", "animate"), ("img2vid",)),
    **dict.fromkeys(("subtitle", "subtitles", "captions", "burn", "burnsubtitles", "srt"), ("caption",)),
    **dict.fromkeys(
        ("addaudio", "music", "mergeaudio", "addmusic", "narration", "soundtrack", "mux"), ("adicionaAudio",)
    ),
    **dict.fromkeys(("thumbnail", "screenshot", "snapshot", "poster", "image", "extractframe"), ("frame",)),
    **dict.fromkeys(("info", "metadata", "ffprobe", "inspect", "mediainfo"), ("probe",)),
}


class UnknownField(str):
    """The reason "Unknown field.", which can be explained later: few of many reasons are shown."""

    def __new__(cls, name: str, schema: Schema) -> UnknownField:
        """`schema` is the one that does not know the field `name`."""
        made = super().__new__(cls, "Unknown field.")
        made._name, made._schema = name, schema
        return made

    _name: str
    _schema: Schema

    def explained(self) -> str:
        """The reason with the field that was probably meant, or else with all that there are."""
        known = list(_known(self._schema))
        if meant := nearest(self._name, [*known, *_inner(self._schema)], FIELD_GUESSES):
            return f"{self} Did you mean `{meant}`?"
        return f"{self} Known are: {', '.join(known)}."


def nearest(name: str, known: Collection[str], guesses: Mapping[str, tuple[str, ...]]) -> str | None:
    """The one of `known` that `name` was probably meant to be; None if none is like it.

    A name in `known` may be a path, such as `style.font`, of which the last part is compared.
    """
    if len(name) > MAX_NAME:
        return None
    squeezed, by_last = _squeezed(name), dict[str, str]()
    for path in known:
        if path == name:
            return path
        by_last.setdefault(path.rpartition(".")[2], path)
    for last, path in by_last.items():
        if _squeezed(last) == squeezed or _words(last) == _words(name):
            return path
    for guess in guesses.get(squeezed, ()):
        if guess in by_last:
            return by_last[guess]
    by_squeezed = {_squeezed(last): path for last, path in by_last.items()}
    close = difflib.get_close_matches(squeezed, by_squeezed, n=1, cutoff=0.75)
    return by_squeezed[close[0]] if close else None


def _known(schema: Schema) -> dict[str, fields.Field]:  # type: ignore[type-arg]
    return {field.data_key or name: field for name, field in schema.load_fields.items()}


def _inner(schema: Schema) -> list[str]:
    """The paths of the fields in objects of `schema`."""
    nested = {name: field for name, field in _known(schema).items() if isinstance(field, fields.Nested)}
    return [f"{name}.{inner}" for name, field in nested.items() for inner in _known(field.schema)]


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(name: str) -> frozenset[str]:
    return frozenset(re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("-", "_").split("_"))
