"""The picture under the captions."""

from __future__ import annotations

from ffmpeg_ops.engine.inspect import VideoStream
from ffmpeg_ops.engine.pixels import even, to_even, to_yuv420p


def shown_size(stream: VideoStream) -> tuple[int, int]:
    """Width and height in square pixels of the encoded picture, with its even sides."""
    return max(2, round(even(stream.width) * stream.pixel_aspect)), even(stream.height)


def filters(stream: VideoStream, script: str) -> list[str]:
    """FFmpeg's filters. Captions come last: they are drawn in SDR whatever the picture was."""
    chain = [*to_even(stream), *to_yuv420p(stream)]
    width, height = shown_size(stream)
    shape = "" if stream.pixel_aspect == 1 else f":original_size={width}x{height}"
    return [*chain, f"ass={script}{shape}"]
