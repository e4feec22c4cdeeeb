"""Params of the picture that several operations have. Can be imported by a gateway without FFmpeg."""

from __future__ import annotations

import re

from marshmallow import ValidationError, fields, validate

from ffmpeg_ops.engine.params import choice, number

MAX_FRAME_RATE = 60
MIN_SIDE, MAX_SIDE, MAX_AREA = 16, 3840, 3840 * 2160

SIZES = {"16:9": (1920, 1080), "9:16": (1080, 1920), "1:1": (1080, 1080), "4:5": (1080, 1350), "4k": (3840, 2160)}
_SIDE = "[0-9]{1,3}[02468]"
MOTIONS = ("zoom_in", "zoom_out", "pan_left", "pan_right", "pan_up", "pan_down", "none")
EASINGS = ("linear", "ease_in", "ease_out", "ease_in_out")
FITS = ("cover", "contain")
COLOR = r"#[0-9a-fA-F]{6}"


def parse_size(text: str) -> tuple[int, int]:
    """A name of SIZES or `WIDTHxHEIGHT` → (width, height). Raises ValidationError."""
    if text.lower() in SIZES:
        return SIZES[text.lower()]
    match = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text)
    if match is None:
        raise ValidationError(f"Must be one of {', '.join(SIZES)}, or WIDTHxHEIGHT.")
    width, height = int(match[1]), int(match[2])
    if width % 2 or height % 2 or min(width, height) < MIN_SIDE:
        raise ValidationError(f"Width and height must be even and at least {MIN_SIDE}.")
    if max(width, height) > MAX_SIDE or width * height > MAX_AREA:
        raise ValidationError("Must not be larger than 4K: 3840 on a side, 3840x2160 in all.")
    return width, height


def size_param(default: str | None) -> fields.String:
    """The size of the video, for `parse_size`; with None as the default it stays as it is."""
    return fields.String(
        load_default=default,
        allow_none=default is None,
        validate=parse_size,
        metadata={
            "pattern": f"^({'|'.join(SIZES)}|{_SIDE}[x×]{_SIDE})$",
            "description": "Size of the video: 16:9 (1920x1080), 9:16 (1080x1920), 1:1 (1080x1080), 4:5 (1080x1350), "
            "4k (3840x2160), or any even WIDTHxHEIGHT up to 4K." + (" By default as it is." if default is None else ""),
        },
    )


def frame_rate_param(default: float | None) -> fields.Float:
    """Frames a second, for `exact_rate`; with None as the default they stay as they are."""
    text = "Frames per second. 23.976, 29.97 and 59.94 mean the exact broadcast rates."
    text += " By default as they are." if default is None else ""
    return number(1, MAX_FRAME_RATE, text, default, " frames a second")


def duration_param(maximum: float, description: str, default: float | None = None) -> fields.Float:
    """A length in seconds, greater than 0; without a default it may be left out."""
    error = "Must be greater than 0 and at most {max} seconds."
    rule = validate.Range(min=0, max=maximum, min_inclusive=False, error=error)
    metadata = {"description": description}
    if default is None:
        return fields.Float(validate=rule, metadata=metadata)
    return fields.Float(load_default=default, validate=rule, metadata=metadata)


def motion_param() -> fields.String:
    """How the camera moves over a still."""
    return choice(MOTIONS, "How the camera moves. A pan goes from one end of the image to the other.", "zoom_in")


def amount_param() -> fields.Float:
    """How far the camera zooms."""
    return number(1, 4, "The largest magnification; during a pan, the magnification all the time.", 1.324)


def focus_x_param() -> fields.Float:
    """The horizontal place of the point that the camera looks at."""
    return number(0, 1, "The point that the camera zooms in on, from the left edge (0) to the right (1).", 0.5)


def focus_y_param() -> fields.Float:
    """The vertical place of that point."""
    return number(0, 1, "The same from the top edge (0) to the bottom (1).", 0.5)


def easing_param() -> fields.String:
    """How the camera accelerates."""
    return choice(EASINGS, "How the movement accelerates.", "linear")


def fit_param(what: str = "an image") -> fields.String:
    """What happens to `what` of another shape than the video."""
    how = "`cover` fills the frame, `contain` shows all of it."
    return choice(FITS, f"How {what} of another shape fits: {how}", "cover")


def background_param(what: str = "the image") -> fields.String:
    """What surrounds `what` where it does not fill the frame."""
    return fields.String(
        load_default="blur",
        validate=validate.Regexp(rf"^(blur|{COLOR})\Z", error="Must be blur or a colour like #1A2B3C."),
        metadata={"description": f"With `contain`: what surrounds {what}, `blur` or a colour #RRGGBB."},
    )
