"""Writes cues as an ASS script, which takes only text and times from the client's input, no commands or styles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import pysubs2

from ffmpeg_ops.engine.subtitles.crowding import Drawn, with_room
from ffmpeg_ops.engine.subtitles.cue import Cue
from ffmpeg_ops.engine.subtitles.fonts import Fonts
from ffmpeg_ops.engine.subtitles.lines import Limit, Line, Word, in_parts, lay_out
from ffmpeg_ops.engine.subtitles.style import Color, Look

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # libass ends a line or the script at some of these
_LTR_MARK, _RTL_MARK = "\u200e", "\u200f"
_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_BOX_AROUND_ALL = 4  # libass's own border style: one box behind all lines of a cue
_AUTOMATIC_DIRECTION = -1
_ROWS = {"bottom": 1, "middle": 4, "top": 7}  # the alignment of their left corner
_STAYS_LIT_MS = 300  # a word stays highlighted over shorter pauses


def to_ass(
    cues: Iterable[Cue],
    look: Look,
    fonts: Fonts,
    check: Callable[[], object] = lambda: None,
    warn: Callable[[str], object] = lambda text: None,
) -> str:
    """An ASS script for one frame size, with one style. `check` is called for every cue and may raise.

    Captions without room in the frame beside others are left out and reported to `warn`.
    """
    script = empty(look.width, look.height)
    script.styles["Default"] = style_of(look, fonts)
    limit = _limit(look, fonts)
    drawn: list[Drawn] = []
    cues = list(cues)
    mixed = _RTL_MARK if _mostly_right_to_left(cues) else _LTR_MARK
    for cue in cues:
        check()
        lines = lay_out(cue, limit, upper_case=look.upper_case)
        for part, its_lines in in_parts(cue, lines, look.max_lines) if lines else ():
            text = _text(part, its_lines, look, fonts, mixed)
            if text and part.end_ms > max(0, part.start_ms):
                event = pysubs2.SSAEvent(start=max(0, part.start_ms), end=part.end_ms, text=text)
                drawn.append(Drawn(event, len(its_lines) * look.size))
    script.events = with_room(drawn, look.height)
    if left_out := len(drawn) - len(script.events):
        warn(f"{left_out} captions have no room in the frame beside others; left out")
    return script.to_string("ass")


def empty(width: int, height: int) -> pysubs2.SSAFile:
    """A script for one frame size, in pixels of it, without styles and events."""
    script = pysubs2.SSAFile()
    script.styles.clear()
    size = {"PlayResX": str(width), "PlayResY": str(height)}
    script.info.update({**size, "ScaledBorderAndShadow": "yes", "WrapStyle": "0"})
    return script


def laid_out(text: str, look: Look, fonts: Fonts) -> tuple[int, str]:
    """A text that is not spoken: how many lines it takes, and the text of its event."""
    cue = Cue(0, 1, text)
    lines = lay_out(cue, _limit(look, fonts), upper_case=look.upper_case)
    mixed = _RTL_MARK if _mostly_right_to_left([cue]) else _LTR_MARK
    return len(lines), _text(cue, lines, look, fonts, mixed)


def _limit(look: Look, fonts: Fonts) -> Limit:
    return Limit(look.line_width / look.size, look.line_length, fonts.width)


def style_of(look: Look, fonts: Fonts) -> pysubs2.SSAStyle:
    """The style of a script that draws text in a look."""
    return pysubs2.SSAStyle(
        fontname=fonts.family,
        fontsize=look.size,
        bold=fonts.is_bold(fonts.family),
        primarycolor=_of_style(look.highlight_color if look.highlight == "karaoke" else look.color),
        secondarycolor=_of_style(look.color),
        outlinecolor=_of_style(look.outline_color),
        backcolor=_of_style(look.box or look.outline_color),
        borderstyle=_BOX_AROUND_ALL if look.box else 1,
        outline=look.outline,
        shadow=round(look.box_padding, 2) if look.box else look.shadow,
        alignment=pysubs2.Alignment(look.alignment),
        marginl=look.margin_x,
        marginr=look.margin_x,
        marginv=look.margin_y,
        encoding=_AUTOMATIC_DIRECTION,
    )


def _of_style(color: Color) -> pysubs2.Color:
    return pysubs2.Color(color.red, color.green, color.blue, 255 - color.alpha)


def _text(cue: Cue, lines: Sequence[Line], look: Look, fonts: Fonts, mixed: str) -> str:
    tags = _highlights(cue, [word for line in lines for word in line], look)
    row = f"{{\\an{_ROWS[cue.row] + (look.alignment - 1) % 3}}}" if cue.row else ""
    return row + "\\N".join(_direction(line[0].row, mixed) + _line(line, tags, look, fonts) for line in lines)


def _mostly_right_to_left(cues: Iterable[Cue]) -> bool:
    """Whether most letters of all cues belong to a script that is written from right to left."""
    texts = [cue.text for cue in cues]
    right_to_left = sum(len(_RIGHT_TO_LEFT.findall(text)) for text in texts)
    return right_to_left > 0 and 2 * right_to_left > sum(char.isalpha() for text in texts for char in text)


def _direction(row: str, mixed: str) -> str:
    """The mark that gives every line made from `row`, a line of the author, its direction; none from left to right.

    A row that mixes scripts gets `mixed`, unless it begins with a mark of its own: its first letter says little, for
    a Hebrew sentence may begin with a Latin name.
    """
    if row.lstrip()[:1] in {_LTR_MARK, _RTL_MARK}:
        return row.lstrip()[:1]
    kinds = {kind for kind in map(unicodedata.bidirectional, row) if kind in {"L", "R", "AL"}}
    if kinds <= {"L"}:
        return ""
    return mixed if "L" in kinds else _RTL_MARK


def _line(line: Line, tags: Iterator[str], look: Look, fonts: Fonts) -> str:
    text = ""
    for i, word in enumerate(line):
        tag, drawn = next(tags), _drawn(word.text, look, fonts)
        text += " " * (word.spaced and i > 0 and bool(drawn)) + tag + drawn
    return text


def _drawn(text: str, look: Look, fonts: Fonts) -> str:
    """One word, with the fonts that have glyphs for it."""
    drawn = ""
    for family, run in fonts.runs(text):
        if family == fonts.family:
            drawn += _escape(run)
        else:
            usual, bold = fonts.is_bold(fonts.family), fonts.is_bold(family)
            weight, back = (f"\\b{bold:d}", f"\\b{usual:d}") if bold != usual else ("", "")
            size = f"\\fs{look.size * fonts.scale(family):.1f}"
            drawn += f"{{\\fn{family}{size}{weight}}}{_escape(run)}{{\\fn\\fs{back}}}"
    return drawn


def _highlights(cue: Cue, words: Sequence[Word], look: Look) -> Iterator[str]:
    """For each word, the tags that colour it while it is spoken."""
    if look.highlight == "none":
        return iter([""] * len(words))
    if look.highlight == "karaoke" and not _RIGHT_TO_LEFT.search(cue.text):
        return _fills(cue, words)
    return _steps(cue, words, look)


def _fills(cue: Cue, words: Sequence[Word]) -> Iterator[str]:
    """ASS karaoke, which fills words from left to right. Rounds sums of durations, so that errors do not add up."""
    now = 0
    for word in words:
        start = max(now, round((word.start_ms - max(0, cue.start_ms)) / 10))
        end = max(start, round((word.end_ms - max(0, cue.start_ms)) / 10))
        pause = f"\\k{start - now}" if start > now else ""
        yield f"{{{pause}\\kf{end - start}}}"
        now = end


def _steps(cue: Cue, words: Sequence[Word], look: Look) -> Iterator[str]:
    """A word changes its colour when it begins and, unless spoken words stay coloured, back when it ends."""
    plain, lit = _tag(look.color), _tag(look.highlight_color)
    stays = look.highlight == "karaoke"
    nexts = [after.start_ms for _, after in pairwise(words)]
    for word, next_ms in zip(words, [*nexts, cue.end_ms], strict=True):
        end_ms = next_ms if 0 <= next_ms - word.end_ms <= _STAYS_LIT_MS else word.end_ms
        start, end = (ms - max(0, cue.start_ms) for ms in (word.start_ms, end_ms))
        tags = lit if start <= 0 else f"{plain}\\t({start},{start},{lit})"
        tags += "" if stays or end_ms >= cue.end_ms else f"\\t({max(1, end)},{max(1, end)},{plain})"
        yield f"{{{tags}}}"


def _tag(color: Color) -> str:
    return f"\\1c&H{color.blue:02X}{color.green:02X}{color.red:02X}&\\1a&H{255 - color.alpha:02X}&"


def _escape(text: str) -> str:
    """Escape plain text so that nothing in it is an ASS command."""
    text = _CONTROL.sub("", text)
    return text.replace("\\", "\\\u2060").replace("{", "\\{").replace("}", "\\}").replace("\n", "\\N")
