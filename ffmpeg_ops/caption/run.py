"""Burns in the captions: the cues become an ASS script, which FFmpeg draws on the video in one encode."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.caption import gaps
from ffmpeg_ops.caption.gaps import Filling
from ffmpeg_ops.engine import ffmpeg, inspect, joined, ladder, output, packets
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.pixels import even, to_one_size, to_yuv420p
from ffmpeg_ops.engine.subtitles import captions
from ffmpeg_ops.engine.subtitles.style import look
from ffmpeg_ops.operation import Work

_RATE = 25  # frames a second that are added
_CLOCK = Fraction(1, 90_000)


def shown_size(stream: inspect.VideoStream) -> tuple[int, int]:
    """Width and height of the output in square pixels."""
    return max(2, round(even(stream.width) * stream.pixel_aspect)), even(stream.height)


def filters(stream: inspect.VideoStream, filling: Filling | None = None) -> list[str]:
    """FFmpeg's video filters. Captions come last: they are drawn in SDR whatever the video was.

    With `filling`, frames are added between those of the video, and the last one is repeated until the end.
    """
    width, height = shown_size(stream)
    shape = "" if stream.pixel_aspect == 1 else f":original_size={width}x{height}"
    added = [] if filling is None else [_with_frames(filling)]
    return [*added, *to_one_size(stream), *to_yuv420p(stream), captions.FILTER + shape]


def _with_frames(filling: Filling) -> str:
    """The filters that add frames: `streamselect` passes a frame of the first input whenever either has one."""
    clock = f"color=size=2x2:rate={_RATE}"
    if filling.gaps:  # it has to begin and end with the video
        gaps = "+".join(f"between(t\\,{begin_s:.3f}\\,{end_s:.3f})" for begin_s, end_s in filling.gaps)
        clock += f",select=eq(n\\,0)+{gaps}+gte(t\\,{filling.until_s:.3f})"
    own = f"tpad=stop=-1:stop_mode=clone,settb={_CLOCK}"
    return f"{own}[video];{clock}[clock];[video][clock]streamselect=map=0,trim=end={filling.until_s:.6f}"


def command(
    video: Path, info: inspect.MediaInfo, stream: inspect.VideoStream, encoder: Encoder, added: Filling | None = None
) -> list[str]:
    """FFmpeg's arguments. The filters contain no text from the client, because the script has a fixed name."""
    # The source's own time base, so that frames at a variable rate keep their exact timestamps.
    clock = ["-enc_time_base:v", str(stream.time_base)] if stream.time_base else []
    if added is not None:  # MP4 stores the duration of the last packet only
        each = f"setts=pts=PTS:dts=DTS:duration='max(1,{round(added.until_s / _CLOCK)}-PTS)'"
        clock = ["-enc_time_base:v", str(_CLOCK), "-bsf:v", each]
    return [
        *ffmpeg.DECODE_LIMITS,
        *encoder.input_options,
        *["-i", str(video), "-map", f"0:{stream.index}"],
        *["-vf", ",".join(filters(stream, added)), "-fps_mode", "passthrough", *clock, *encoder.arguments],
        *output.keep_audio(info),
        *output.MP4,
    ]


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    parsed = captions.read(params, assets, work, warnings.append)
    video = joined.continuous(assets["url_video"], "url_video", work, warnings.append)
    info, stream = inspect.video_asset(video, "url_video", work)
    inspect.require_size(stream, "url_video")
    length_s = output.length_s(info, stream)
    cues = captions.fitted(parsed, params, gaps.played_s(info, length_s), warnings.append)
    style = look(params.get("style"), *shown_size(stream))
    warnings += [*info.video_warnings, *info.audio_warnings, *captions.write_script(work, cues, style, assets)]
    times = gaps.frame_times(video, info, stream, work)
    added = gaps.filling(cues, info, stream, length_s, times, moving=style.highlight != "none")
    made = ladder.encode(
        lambda encoder: command(video, info, stream, encoder, added),
        work,
        Encoding.of(params),
        length_s=length_s,
        pixels=stream.width * stream.height,
        megapixels=stream.megapixels(length_s),
        sound_bytes=lambda: output.sound_bytes(video, info, length_s, work),
        decodes=True,
    )
    encoded = made.encoded
    output.require_written(encoded.frames, work)
    # If all frames in the header were written, the header's length is right; otherwise the output is probed.
    whole = added is None and encoded.frames == stream.frames and not encoded.errors
    size = (even(stream.width), even(stream.height))
    known = output.made(size, encoded.frames, length_s) if whole else None
    warnings += made.warnings
    stats = output.stats(work, made.stats, known, warnings=warnings, errors=encoded.errors)
    written = stats["frames"] if added is None else packets.count_frames(video, stream.index, work)
    output.require_frames(written or 0, video, stream, length_s, work)
    return stats
