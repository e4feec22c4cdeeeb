"""Turns a still image into a moving shot.

The camera moves over the image, by default zooming in slowly on its centre, at true sub-pixel positions, so that slow
moves do not shake. The shot has exactly `duration × frame_rate` frames. `fit` says what happens when the image has
another shape than the video: `cover` fills the frame and crops the image, `contain` shows the whole image on a blurred
copy of itself or on a colour. EXIF orientation and colour profiles are respected, as are the colours that
PNG (gAMA, cHRM, cICP) and AVIF describe without one; HDR becomes SDR, transparency becomes white. An image that is cut
off or damaged is used, with a warning, when at least 98 % of its lines can be read.
"""

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import Asset
from ffmpeg_ops.engine import picture_params
from ffmpeg_ops.engine.encoding import encoding_param
from ffmpeg_ops.operation import VIDEO, Operation, Weight

MAX_DURATION_S = 60


class Img2VidParams(ForgivingSchema):
    url_image = Asset(
        "image", required=True, metadata={"description": "URL of the image: JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF."}
    )
    duration = picture_params.duration_param(MAX_DURATION_S, "Length of the shot in seconds.", 5.0)
    frame_rate = picture_params.frame_rate_param(24.0)
    size = picture_params.size_param("16:9")
    motion = picture_params.motion_param()
    amount = picture_params.amount_param()
    focus_x = picture_params.focus_x_param()
    focus_y = picture_params.focus_y_param()
    easing = picture_params.easing_param()
    fit = picture_params.fit_param()
    background = picture_params.background_param()
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
