"""From the params of captions to the ASS script that FFmpeg draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine.subtitles import cue_times, font_file, parse, source, words
from ffmpeg_ops.engine.subtitles.ass_script import to_ass
from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.engine.subtitles.font_file import FONTS
from ffmpeg_ops.engine.subtitles.fonts import Fonts, installed
from ffmpeg_ops.engine.subtitles.params import SOURCES
from ffmpeg_ops.engine.subtitles.style import Look
from ffmpeg_ops.operation import Work

SCRIPT = "captions.ass"
FILTER = f"ass={SCRIPT}:fontsdir={FONTS}"
_SAMPLE = 20_000  # characters from which the language is guessed


def read(
    captions: Mapping[str, Any], assets: Mapping[str, Path], work: Work, warn: parse.Warn, prefix: str = ""
) -> list[Cue]:
    """The cues of a file or a text; none of words, whose times need the video's length to be understood.

    `captions` are loaded CaptionsParams, whose own path in the params is `prefix`.
    """
    name = prefix + "url_srt"
    if name in assets:
        return source.from_file(assets[name], name, work, warn)
    return source.from_text(captions["subtitles"], prefix + "subtitles", work) if "subtitles" in captions else []


def fitted(
    cues: list[Cue], captions: Mapping[str, Any], length_s: float, warn: parse.Warn, prefix: str = ""
) -> list[Cue]:
    """The cues, those of `read` or of the words, that are seen in a video of that length."""
    name = prefix + next(name for name in SOURCES if name in captions)
    if "words" in captions:
        timed = words.with_times(words.in_seconds(captions["words"], length_s, warn), warn)
        cues = words.to_cues(timed, name)
    cues = cue_times.fit(cues, length_s, name, warn)
    # a requested position is for all captions, whatever the file says
    return [replace(cue, row=None) for cue in cues] if "position" in captions.get("style", {}) else cues


def write_script(
    work: Work, cues: list[Cue], style: Look, assets: Mapping[str, Path] | None = None, prefix: str = ""
) -> list[str]:
    """Write SCRIPT and return warnings about text that cannot be drawn as requested.

    The font of `style.url_font`, if that is one of `assets`, is made ready for FILTER.
    """
    text = "".join(cue.text for cue in cues)
    name = f"{prefix}style.url_font"
    own = font_file.load(assets[name], name, text, work) if assets and name in assets else None
    fonts = Fonts(installed(), style.font, bold=style.bold, sample=text[:_SAMPLE], own=own)
    warnings: list[str] = []
    script = to_ass(cues, style, fonts, work.stop.check, warnings.append)
    (work.directory / SCRIPT).write_text(script, encoding="utf-8")
    if own and fonts.used and fonts.family not in fonts.used:
        warnings.append(f"{name}: the font has none of the characters; {' and '.join(sorted(fonts.used))} was used")
    elif not own and fonts.family.lower() != style.font.lower():
        warnings.append(f"the font {style.font} is not installed; {fonts.family} was used")
    if fonts.missing:
        warnings.append(f"no font has {' '.join(sorted(fonts.missing)[:20])}; left out")
    return warnings
