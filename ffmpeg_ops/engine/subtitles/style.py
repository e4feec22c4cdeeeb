"""The look of captions: the param `style`, the presets, and their resolution to pixels for one frame size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.params import choice, integer, number

POSITIONS = {
    f"{row}-{column}": 3 * i + j
    for i, row in enumerate(("bottom", "middle", "top"))
    for j, column in enumerate(("left", "center", "right"), 1)
}
HIGHLIGHTS = ("none", "word", "karaoke")

_COMMON: Mapping[str, Any] = {
    "font": "Noto Sans",
    "bold": True,
    "color": "#FFFFFF",
    "outline_color": "#000000",
    "outline": 0.06,
    "shadow": 0.03,
    "box": "off",
    "position": "bottom-center",
    "margin_x": 0.05,
    "margin_y": 0.06,
    "upper_case": False,
    "line_length": 42,
    "max_lines": 4,
    "highlight": "none",
    "highlight_color": "#FFD60A",
    "size": 0.055,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "classic": {},
    "bold": {"size": 0.075, "outline": 0.085, "shadow": 0.0, "upper_case": True, "line_length": 28, "max_lines": 3},
    "box": {"box": "#000000B8", "size": 0.05, "outline": 0.0, "shadow": 0.0, "margin_y": 0.08},
    "karaoke": {"highlight": "karaoke", "size": 0.065, "outline": 0.07, "line_length": 32, "max_lines": 2},
    "pop": {
        "highlight": "word",
        "highlight_color": "#FFE600",
        "size": 0.085,
        "outline": 0.1,
        "shadow": 0.05,
        "upper_case": True,
        "line_length": 18,
        "max_lines": 2,
        "margin_y": 0.2,
    },
    "minimal": {"size": 0.047, "bold": False, "outline": 0.035, "shadow": 0.035, "outline_color": "#000000CC"},
}
_BOX = "#000000B8"
_BOX_PADDING = 0.28  # of the size of the text
_COLOR = r"#[0-9A-Fa-f]{6}(?:[0-9A-Fa-f]{2})?"


def _color(description: str) -> fields.String:
    rule = validate.Regexp(rf"{_COLOR}\Z", error="Must be a colour like #FFD60A or, with opacity, #FFD60A80.")
    return fields.String(validate=rule, metadata={"description": description})


class StyleParams(ForgivingSchema):
    """Fields that are not set come from the preset."""

    preset = choice(PRESETS, "The preset that the other fields change.", "classic")
    font = fields.String(
        validate=validate.Regexp(
            r"(?=.{1,64}\Z)\w[\w .\-]*\Z", error="Must be the name of a font: letters, digits, spaces, dots, hyphens."
        ),
        metadata={"description": "Font family installed on the worker. Scripts that it lacks are drawn in Noto."},
    )
    url_font = Asset(
        "font",
        metadata={
            "description": "URL of a font to use instead: a TTF or OTF file. It is drawn in the weight that it has."
        },
    )
    bold = fields.Boolean(metadata={"description": "Bold letters."})
    size = number(0.01, 0.3, "Height of a line as a share of the video's height.")
    color = _color("Colour of the text, #RRGGBB or #RRGGBBAA.")
    outline_color = _color("Colour of the outline and the shadow, #RRGGBB or #RRGGBBAA.")
    outline = number(0, 0.3, "Width of the outline as a share of the text size.")
    shadow = number(0, 0.3, "Distance of the shadow as a share of the text size; ignored with a box.")
    box = fields.String(
        validate=validate.Regexp(rf"(?:on|off|{_COLOR})\Z", error="Must be `on`, `off` or a colour like #000000B8."),
        metadata={"description": "A box behind the text: `on`, `off` or its colour, #RRGGBB or #RRGGBBAA."},
    )
    position = choice(POSITIONS, "Position of the captions in the frame.")
    margin_x = number(0, 0.4, "Margin on both sides as a share of the video's width.")
    margin_y = number(0, 0.8, "Margin above or below as a share of the video's height.")
    upper_case = fields.Boolean(metadata={"description": "Converts the text to upper case."})
    line_length = integer(4, 100, "Maximum characters in a line; a wide one counts as two. Margins are always kept.")
    max_lines = integer(1, 10, "Maximum lines at a time; a longer cue is split and its parts are shown in turn.")
    highlight = choice(HIGHLIGHTS, "Highlights the word being spoken (`word`) or all words so far (`karaoke`).")
    highlight_color = _color("Colour of highlighted words, #RRGGBB or #RRGGBBAA.")

    @validates_schema
    def _one_font(self, data: dict[str, Any], **_: Any) -> None:
        if "font" in data and "url_font" in data:
            raise ValidationError("Give either a `font` or a `url_font`.", "url_font")


@dataclass(frozen=True)
class Color:
    """A colour; every part is from 0 to 255."""

    #: Red.
    red: int
    #: Green.
    green: int
    #: Blue.
    blue: int
    #: Opacity; 255 is opaque.
    alpha: int = 255

    @classmethod
    def parse(cls, text: str) -> Color:
        """From `#RRGGBB` or `#RRGGBBAA`."""
        return cls(*bytes.fromhex(text.removeprefix("#")))


@dataclass(frozen=True)
class Look:
    """A style resolved for one frame size. All lengths are in pixels."""

    #: Width of the frame.
    width: int
    #: Height of the frame.
    height: int
    #: Font family.
    font: str
    #: Whether the text is bold.
    bold: bool
    #: Height of a line.
    size: float
    #: Colour of the text.
    color: Color
    #: Colour of the outline and the shadow.
    outline_color: Color
    #: Width of the outline.
    outline: float
    #: Distance of the shadow.
    shadow: float
    #: Colour of the box behind the text, None without one.
    box: Color | None
    #: Position as a number of the keypad: 1 is bottom left, 9 top right.
    alignment: int
    #: Margin on both sides.
    margin_x: int
    #: Margin above or below.
    margin_y: int
    #: Whether the text is converted to upper case.
    upper_case: bool
    #: Maximum columns in a line; see `lines.columns`.
    line_length: int
    #: Maximum lines at a time.
    max_lines: int
    #: One of HIGHLIGHTS.
    highlight: str
    #: Colour of highlighted words.
    highlight_color: Color

    @property
    def box_padding(self) -> float:
        """Distance between the text and the edge of its box; 0 without one."""
        return self.size * _BOX_PADDING if self.box else 0.0

    @property
    def line_width(self) -> float:
        """Maximum width of a line; slightly less than available, because libass measures differently."""
        return 0.98 * (self.width - 2 * self.margin_x) - 2 * (self.outline + self.box_padding)


def look(params: Mapping[str, Any] | None, width: int, height: int) -> Look:
    """Resolve `params`, loaded by StyleParams, for a frame size."""
    given = dict(params or {})
    style = {**_COMMON, **PRESETS[given.get("preset", "classic")], **given}
    # In a tall frame a share of the height would leave room for only two words a line, so the width limits the size.
    size = style["size"] * (height if "size" in given else min(height, 1.13 * width))
    box = {"on": _BOX, "off": None}.get(style["box"], style["box"])
    margin_y = round(style["margin_y"] * height)
    fitting = int((height - margin_y) * 0.98 / size)
    return Look(
        width=width,
        height=height,
        font=style["font"],
        bold=style["bold"],
        size=round(size, 1),
        color=Color.parse(style["color"]),
        outline_color=Color.parse(style["outline_color"]),
        outline=round(style["outline"] * size, 2),
        shadow=round(style["shadow"] * size, 2),
        box=Color.parse(box) if box else None,
        alignment=POSITIONS[style["position"]],
        margin_x=round(style["margin_x"] * width),
        margin_y=margin_y,
        upper_case=style["upper_case"],
        line_length=style["line_length"],
        max_lines=max(1, min(style["max_lines"], fitting)),
        highlight=style["highlight"],
        highlight_color=Color.parse(style["highlight_color"]),
    )
