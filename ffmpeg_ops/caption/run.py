"""Burns in the captions: the cues become an ASS script, which FFmpeg draws on the video in one encode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.caption import gaps
from ffmpeg_ops.caption.gaps import Filling
from ffmpeg_ops.engine import ffmpeg, inspect, joined, ladder, output, packets
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.pixels import even, to_one_size, to_yuv420p
from ffmpeg_ops.engine.subtitles import cue_times, parse, source, words
from ffmpeg_ops.engine.subtitles.ass_script import to_ass
from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.engine.subtitles.fonts import Fonts, installed
from ffmpeg_ops.engine.subtitles.style import Look, look
from ffmpeg_ops.operation import Work

SCRIPT = "captions.ass"
_RATE = 25  # frames a second that are added
_CLOCK = Fraction(1, 90_000)
_SAMPLE = 20_000  # characters from which the language is guessed


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
    return [*added, *to_one_size(stream), *to_yuv420p(stream), f"ass={SCRIPT}{shape}"]


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
    parsed = _parsed(work, params, assets, warnings.append)
    video = joined.continuous(assets["url_video"], "url_video", work, warnings.append)
    info, stream = inspect.video_asset(video, "url_video", work)
    inspect.require_size(stream, "url_video")
    length_s = output.length_s(info, stream)
    cues = _cues(parsed, params, gaps.played_s(info, length_s), warnings.append)
    style = look(params.get("style"), *shown_size(stream))
    warnings += [*info.video_warnings, *info.audio_warnings, *_write_script(work, cues, style)]
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


def _parsed(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path], warn: parse.Warn) -> list[Cue]:
    """The cues of a file or a text; none of words, whose times need the video's length to be understood."""
    if "url_srt" in assets:
        return source.from_file(assets["url_srt"], "url_srt", work, warn)
    return source.from_text(params["subtitles"], "subtitles", work) if "subtitles" in params else []


def _cues(parsed: list[Cue], params: Mapping[str, Any], length_s: float, warn: parse.Warn) -> list[Cue]:
    """The cues that are seen in a video of that length."""
    if "words" in params:
        timed = words.with_times(words.in_seconds(params["words"], length_s, warn), warn)
        parsed = words.to_cues(timed, "words")
    name = next(name for name in ("words", "subtitles", "url_srt") if name in params or name == "url_srt")
    cues = cue_times.fit(parsed, length_s, name, warn)
    # a requested position is for all captions, whatever the file says
    return [replace(cue, row=None) for cue in cues] if "position" in params.get("style", {}) else cues


def _write_script(work: Work, cues: list[Cue], style: Look) -> list[str]:
    """Write the script and return warnings about text that cannot be drawn as requested."""
    sample = "".join(cue.text for cue in cues)[:_SAMPLE]
    fonts = Fonts(installed(), style.font, bold=style.bold, sample=sample)
    warnings: list[str] = []
    script = to_ass(cues, style, fonts, work.stop.check, warnings.append)
    (work.directory / SCRIPT).write_text(script, encoding="utf-8")
    if fonts.family.lower() != style.font.lower():
        warnings.append(f"the font {style.font} is not installed; {fonts.family} was used")
    if fonts.missing:
        warnings.append(f"no font has {' '.join(sorted(fonts.missing)[:20])}; left out")
    return warnings
