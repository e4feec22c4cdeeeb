"""Every type of file that an operation can make. No other module names an extension or a MIME type.

A new type is one line here, and a signature in `wire/sniffing.py` if it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MediaType:
    """One type of file."""

    #: Its name in storage, logs and the database.
    name: str
    #: `video`, `image`, `audio`, `subtitles` or `text`.
    kind: str
    #: File name extension, without the dot.
    extension: str
    #: MIME type with which the file is served.
    mime: str
    #: What `wire.sniffing` must find in the file: a name of its table.
    content: str


MP4 = MediaType("mp4", "video", "mp4", "video/mp4", "mp4")
WEBM = MediaType("webm", "video", "webm", "video/webm", "matroska")
JPEG = MediaType("jpeg", "image", "jpg", "image/jpeg", "jpeg")
PNG = MediaType("png", "image", "png", "image/png", "png")
WEBP = MediaType("webp", "image", "webp", "image/webp", "webp")
MP3 = MediaType("mp3", "audio", "mp3", "audio/mpeg", "mp3")
M4A = MediaType("m4a", "audio", "m4a", "audio/mp4", "mp4")
WAV = MediaType("wav", "audio", "wav", "audio/wav", "wav")
SRT = MediaType("srt", "subtitles", "srt", "application/x-subrip", "subtitles")
VTT = MediaType("vtt", "subtitles", "vtt", "text/vtt", "subtitles")
JSON = MediaType("json", "text", "json", "application/json", "json")
TXT = MediaType("txt", "text", "txt", "text/plain; charset=utf-8", "text")

MEDIA_TYPES: Mapping[str, MediaType] = {
    known.name: known for known in (MP4, WEBM, JPEG, PNG, WEBP, MP3, M4A, WAV, SRT, VTT, JSON, TXT)
}
# Files of any content, as clients upload them.
ANY_MIME = "application/octet-stream"

_BY_EXTENSION = {known.extension: known for known in MEDIA_TYPES.values()}


def of_file_name(name: str) -> MediaType | None:
    """Return the type with the extension of `name`, or None."""
    return _BY_EXTENSION.get(name.rpartition(".")[2]) if "." in name else None
