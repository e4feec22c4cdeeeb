"""Draws texts as captions are drawn: with the same fonts, lines, emoji and scripts, by libass.

FFmpeg draws all texts of a film in one run, each on a black and on a white canvas. What differs between the two is what
shows through, so alpha is exact to a step; FFmpeg's own, `ass=…:alpha=1`, is the square of it for translucent colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pysubs2
from numpy.typing import NDArray

from ffmpeg_ops.engine import process
from ffmpeg_ops.engine.i420 import Layer, layer_of_rgba
from ffmpeg_ops.engine.overlays.placement import Place, Size, area, place, within_limits
from ffmpeg_ops.engine.subtitles import ass_script, font_file
from ffmpeg_ops.engine.subtitles.font_file import FONTS
from ffmpeg_ops.engine.subtitles.fonts import Face, Fonts, installed
from ffmpeg_ops.engine.subtitles.style import Look, look
from ffmpeg_ops.operation import Work
from wire.errors import InvalidParams

_SCRIPT = "overlays.ass"
_SAMPLE = 20_000  # characters from which the language is guessed
_SMALLER, _SMALLEST = 0.92, 0.3  # steps and end of making a text smaller until it fits
_MIN_SIZE = 8  # pixels

Canvas = NDArray[np.uint8]


@dataclass(frozen=True)
class Text:
    """A text overlay."""

    #: Its param, for errors and warnings.
    path: str
    #: Loaded by OverlayParams.
    params: Mapping[str, Any]


@dataclass(frozen=True)
class _Drawn:
    text: Text
    look: Look
    fonts: Fonts
    event: str
    place: Place


def layers(
    texts: Sequence[Text], frame: Size, assets: Mapping[str, Path], work: Work, warn: Callable[[str], object]
) -> Iterator[Layer | None]:
    """The layer of each text for frames of that size; None for one without a visible pixel.

    `assets` maps the path of each asset to its file, also that of a font. Raises InvalidParams for a text that has no
    room in the frame, before the first layer, and like `font_file.load` and `process.read`.
    """
    if not texts:
        return
    everything = "".join(text.params["text"] for text in texts)
    own: dict[Path, Face] = {}
    drawn = []
    for text in texts:
        work.stop.check()
        name = f"{text.path}.style.url_font"
        path = assets.get(name)
        if path and path not in own:
            own[path] = font_file.load(path, name, everything, work)
        drawn.append(_laid_out(text, frame, everything[:_SAMPLE], own[path] if path else None, warn))
    (work.directory / _SCRIPT).write_text(_script(drawn, frame), encoding="utf-8")
    block = 2 * frame[0] * frame[1] * 3
    with process.read(_command(frame, len(drawn)), work, block_bytes=block, timeout_s=work.limits.timeout_s) as blocks:
        for one, pair in zip(drawn, blocks, strict=True):
            yield _layer(one, np.frombuffer(pair, np.uint8).reshape(2, frame[1], frame[0], 3), frame)


def _command(frame: Size, count: int) -> list[str]:
    canvas = f"color=black:size={frame[0]}x{frame[1]}:rate=2:duration={count},format=rgb24"
    drawn = f"negate=enable=mod(n\\,2),ass={_SCRIPT}:fontsdir={FONTS}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    return ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-f", "lavfi", "-i", canvas, "-vf", drawn, *raw]


def _script(drawn: Sequence[_Drawn], frame: Size) -> str:
    script = ass_script.empty(*frame)
    for i, one in enumerate(drawn):
        script.styles[f"Text{i}"] = ass_script.style_of(one.look, one.fonts)
        tags = f"{{\\an{one.place.alignment}\\pos({one.place.x:.2f},{one.place.y:.2f})}}"
        script.append(pysubs2.SSAEvent(start=1000 * i, end=1000 * (i + 1), style=f"Text{i}", text=tags + one.event))
    return script.to_string("ass")


def _laid_out(text: Text, frame: Size, sample: str, own: Face | None, warn: Callable[[str], object]) -> _Drawn:
    """The text in the largest size that fits, at most the one of its style."""
    params, within = text.params, area(text.params, frame)
    width = min(params.get("width", 1.0) * frame[0], within.width)
    wanted = replace(
        look(params.get("style"), *frame), margin_x=int((frame[0] - width) / 2), margin_y=0, highlight="none"
    )
    fonts = Fonts(installed(), wanted.font, bold=wanted.bold, sample=sample, own=own)
    for smaller in _smaller_and_smaller(wanted):
        padding = smaller.outline + smaller.box_padding if smaller.box else 0.0
        lines, event = ass_script.laid_out(params["text"], smaller, fonts)
        if lines * smaller.size + 2 * padding <= within.height:
            if smaller.size < wanted.size:
                share = smaller.size / wanted.size
                warn(f"{text.path}.text: the text is drawn smaller, at {share:.0%} of its size, so that it fits")
            _warn_of_fonts(text.path, fonts, wanted.font, warn)
            return _Drawn(text, smaller, fonts, event, _anchor(params, frame, padding))
    raise InvalidParams(f"{text.path}.text: the text has no room in the frame, not even in small letters.")


def _smaller_and_smaller(wanted: Look) -> Iterator[Look]:
    """A look, and the same in smaller letters, as long as they can be read and a line has room for some."""
    scale = 1.0
    while scale > _SMALLEST:
        size, outline, shadow = (round(value * scale, 2) for value in (wanted.size, wanted.outline, wanted.shadow))
        made = replace(wanted, size=round(size, 1), outline=outline, shadow=shadow)
        if made.size >= _MIN_SIZE and made.line_width >= made.size:
            yield made
        scale *= _SMALLER


def _warn_of_fonts(path: str, fonts: Fonts, font: str, warn: Callable[[str], object]) -> None:
    if fonts.own and fonts.used and fonts.family not in fonts.used:
        used = " and ".join(sorted(fonts.used))
        warn(f"{path}.style.url_font: the font has none of the characters; {used} was used")
    elif not fonts.own and fonts.family.lower() != font.lower():
        warn(f"{path}.style.font: the font {font} is not installed; {fonts.family} was used")
    if fonts.missing:
        warn(f"{path}.text: no font has {' '.join(sorted(fonts.missing)[:20])}; left out")


def _anchor(params: Mapping[str, Any], frame: Size, padding: float) -> Place:
    """Where the text is drawn on the canvas. With `x` or `y` it is in the middle, and moved by `_layer`."""
    named = place({name: value for name, value in params.items() if name not in {"x", "y"}}, frame)
    x, column = (frame[0] / 2, 1) if "x" in params else (named.x + padding * (1 - named.column), named.column)
    y, row = (frame[1] / 2, 1) if "y" in params else (named.y + padding * (1 - named.row), named.row)
    return Place(x, y, column, row)


def _layer(drawn: _Drawn, canvases: Canvas, frame: Size) -> Layer | None:
    """The layer of a text that has been drawn on black and on white."""
    through = canvases[1, :, :, 1].astype(np.int16) - canvases[0, :, :, 1]
    seen = through < 255
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not rows.size:
        return None
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    alpha = np.clip(255 - through[part], 0, 255).astype(np.float32)[:, :, None]
    colors = np.rint(np.minimum(canvases[0][part] * np.float32(255) / np.maximum(alpha, 1), 255))
    rgba = np.dstack([colors, alpha]).astype(np.uint8)
    params, within = drawn.text.params, area(drawn.text.params, frame)
    x, y = int(columns[0]), int(rows[0])
    if "x" in params:
        x = _moved(params["x"], x, rgba.shape[1], frame[0], within.left, within.right)
    if "y" in params:
        y = _moved(params["y"], y, rgba.shape[0], frame[1], within.top, within.bottom)
    return layer_of_rgba(rgba, x, y, frame)


def _moved(share: float, at: int, size: int, whole: int, low: float, high: float) -> int:
    """Where what begins `at`, of a text in the middle of the canvas, begins when that middle is at `share`."""
    middle = share * whole + (at + size / 2 - whole / 2)
    return round(within_limits(middle, size, low, high) - size / 2)
