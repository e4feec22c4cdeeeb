"""How captions are burned in: our own ASS over the decoded picture, encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffmpeg_ops.caption.filters import filters, shown_size
from ffmpeg_ops.engine import encoders, ffmpeg, inspect, output
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.pixels import even
from ffmpeg_ops.engine.subtitles import cues as subtitles
from ffmpeg_ops.engine.subtitles import words
from ffmpeg_ops.engine.subtitles.cues import Cue
from ffmpeg_ops.engine.subtitles.fonts import Fonts, installed
from ffmpeg_ops.engine.subtitles.script import to_ass
from ffmpeg_ops.engine.subtitles.style import Look, look
from ffmpeg_ops.operation import Work

SCRIPT = "captions.ass"
_SAMPLE = 20_000  # characters that tell which language this is


def command(video: Path, info: inspect.MediaInfo, stream: inspect.VideoStream, encoder: Encoder) -> list[str]:
    """FFmpeg's arguments. No word of the client is in the filter: the script has a fixed name in the work directory."""
    # The source's own clock: a frame of variable rate keeps its time to the tick.
    clock = ["-enc_time_base:v", str(stream.time_base)] if stream.time_base else []
    return [
        *ffmpeg.DECODE_LIMITS,
        *["-i", str(video), "-map", f"0:{stream.index}"],
        *["-vf", ",".join(filters(stream, SCRIPT)), "-fps_mode", "passthrough", *clock, *encoder.arguments],
        *output.keep_audio(info),
        *output.MP4,
    ]


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    cues = _cues(params, assets)
    video = assets["url_video"]
    info, stream = inspect.video_asset(video, "url_video", work)
    inspect.require_size(stream, "url_video")
    style = look(params.get("style"), *shown_size(stream))
    warnings = _write_script(work, cues, style)
    length_s = output.length_s(info, stream)
    made = encoders.encode(
        lambda encoder: command(video, info, stream, encoder),
        work,
        Encoding.of(params),
        length_s=length_s,
        sound_bytes=lambda: output.sound_bytes(video, info, length_s, work),
    )
    encoded = made.encoded
    output.require_written(encoded.frames, work)
    # Where every frame that the header counts was written, its word on the length holds; otherwise the file is read.
    whole = encoded.frames == stream.frames and not encoded.errors
    size = (even(stream.width), even(stream.height))
    told = output.made(size, encoded.frames, length_s) if whole else None
    stats = output.stats(work, made.encoder.name, made.encoder.device, told)
    output.require_frames(stats["frames"] or 0, video, stream, length_s, work)
    warnings += [*made.warnings, *output.warnings(encoded.errors)]
    return {**stats, **({"warnings": warnings} if warnings else {})}


def _cues(params: Mapping[str, Any], assets: Mapping[str, Path]) -> list[Cue]:
    if "url_srt" in assets:
        return subtitles.load(assets["url_srt"], "url_srt")
    if "subtitles" in params:
        return subtitles.loads(params["subtitles"], "subtitles")
    return words.to_cues(params["words"], "words")


def _write_script(work: Work, cues: list[Cue], style: Look) -> list[str]:
    """Writes the script; answers what could not be drawn as it was asked for."""
    sample = "".join(cue.text for cue in cues)[:_SAMPLE]
    fonts = Fonts(installed(), style.font, bold=style.bold, sample=sample)
    (work.directory / SCRIPT).write_text(to_ass(cues, style, fonts, work.stop.check), encoding="utf-8")
    said = []
    if fonts.family.lower() != style.font.lower():
        said.append(f"the font {style.font} is not installed; {fonts.family} was used")
    if fonts.missing:
        said.append(f"no font has {' '.join(sorted(fonts.missing)[:20])}; left out")
    return said
