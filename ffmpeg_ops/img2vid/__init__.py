"""Turns a still image into a moving shot.

The camera moves over the image, by default zooming in slowly on its centre, at true sub-pixel positions, so that slow
moves do not shake. The shot has exactly `duration × frame_rate` frames. `fit` says what happens when the image has
another shape than the video: `cover` fills the frame and crops the image, `contain` shows the whole image on a blurred
copy of itself or on a colour. EXIF orientation and colour profiles are respected, as are the colours that
PNG (gAMA, cHRM, cICP) and AVIF describe without one; HDR becomes SDR, transparency becomes white. An image that is cut
off or damaged is used, with a warning, when at least 98 % of its lines can be read.
"""

import re

from marshmallow import ValidationError, fields, validate

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.engine.params import choice, number
from ffmpeg_ops.operation import VIDEO, Operation, Weight

MAX_DURATION_S = 60
MAX_FRAME_RATE = 60
MIN_SIDE, MAX_SIDE, MAX_AREA = 16, 3840, 3840 * 2160

SIZES = {"16:9": (1920, 1080), "9:16": (1080, 1920), "1:1": (1080, 1080), "4:5": (1080, 1350), "4k": (3840, 2160)}
MOTIONS = ("zoom_in", "zoom_out", "pan_left", "pan_right", "pan_up", "pan_down", "none")
EASINGS = ("linear", "ease_in", "ease_out", "ease_in_out")


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


class Img2VidParams(ForgivingSchema):
    url_image = Asset(
        "image", required=True, metadata={"description": "URL of the image: JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF."}
    )
    duration = fields.Float(
        load_default=5.0,
        validate=validate.Range(
            min=0, max=MAX_DURATION_S, min_inclusive=False, error="Must be greater than 0 and at most {max} seconds."
        ),
        metadata={"description": "Length of the shot in seconds."},
    )
    frame_rate = number(
        1,
        MAX_FRAME_RATE,
        "Frames per second. 23.976, 29.97 and 59.94 mean the exact broadcast rates.",
        24.0,
        " frames a second",
    )
    size = fields.String(
        load_default="16:9",
        validate=parse_size,
        metadata={
            "description": "Size of the video: 16:9 (1920x1080), 9:16 (1080x1920), 1:1 (1080x1080), 4:5 (1080x1350), "
            "4k (3840x2160), or any even WIDTHxHEIGHT up to 4K."
        },
    )
    motion = choice(MOTIONS, "How the camera moves. A pan goes from one end of the image to the other.", "zoom_in")
    amount = number(1, 4, "The largest magnification; during a pan, the magnification all the time.", 1.324)
    focus_x = number(0, 1, "The point that the camera zooms in on, from the left edge (0) to the right (1).", 0.5)
    focus_y = number(0, 1, "The same from the top edge (0) to the bottom (1).", 0.5)
    easing = choice(EASINGS, "How the movement accelerates.", "linear")
    fit = choice(
        ("cover", "contain"),
        "How an image of another shape fits: `cover` fills the frame, `contain` shows all of it.",
        "cover",
    )
    background = fields.String(
        load_default="blur",
        validate=validate.Regexp(r"^(blur|#[0-9a-fA-F]{6})\Z", error="Must be blur or a colour like #1A2B3C."),
        metadata={"description": "With `contain`: what surrounds the image, `blur` or a colour #RRGGBB."},
    )
    encoding = encoding_param()


OPERATION = Operation(
    name="img2vid",
    package=__name__,
    params=Img2VidParams,
    outputs=lambda params: VIDEO,
    weight=Weight.GPU,
    examples=(
        {"url_image": "https://example.com/photo.jpg"},
        {"url_image": "https://example.com/photo.jpg", "duration": 3, "frame_rate": 30},
        {
            "url_image": "https://example.com/portrait.png",
            "size": "9:16",
            "motion": "pan_up",
            "easing": "ease_in_out",
            "fit": "cover",
        },
        {"url_image": "https://example.com/square.webp", "size": "16:9", "fit": "contain", "background": "#101820"},
        {"url_image": "https://example.com/photo.jpg", "encoding": {"quality": "high", "max_bytes": 4000000}},
    ),
)
