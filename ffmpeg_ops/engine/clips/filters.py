"""FFmpeg's filters that make any video W×H, in BT.709 and limited range, at an exact constant rate."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from ffmpeg_ops.engine.inspect import VideoStream
from ffmpeg_ops.engine.pixels import is_hdr, matrix, to_yuv420p
from ffmpeg_ops.engine.stills.frames import planes_of

# Chroma is sited as players expect it: left in 4:2:0. RGB's has to be whole then.
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp:in_h_chr_pos=0:out_h_chr_pos=0"
_BT709 = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
_SMALL = 256  # the longer side of what is blurred, which loses the details anyway
_BLUR = 0.03  # radius as a share of the height


def at_rate(rate: Fraction, stream: VideoStream) -> list[str]:
    """Filters that pass, for each frame of the output from time 0 on, the frame that is shown then.

    A frame that comes a seventh of one too late counts as in time: containers round, some to milliseconds. No pair of
    usual rates has frames just so far apart.
    """
    late_s = float(min(1 / rate, 1 / (stream.frame_rate or rate)) / 7)
    return ["settb=AVTB", f"setpts=PTS-{late_s:.6f}/TB", f"fps={rate}:round=up", "trim=start_pts=0"]


def picture(stream: VideoStream, size: tuple[int, int], fit: str = "cover", background: str = "blur") -> str:
    """The filters that make every frame `size`, both even.

    `fit`: `cover` crops what is too wide or too high, `contain` shows all of it on `background`, which is `blur` or a
    colour #RRGGBB.
    """
    shown = _contained(stream, size) if fit == "contain" else size
    width, height = stream.width, stream.height
    # Frames of another size than the first, which some videos have, get its size.
    chain = [f"scale={width}:{height}:force_original_aspect_ratio=decrease", f"pad={width}:{height}:-1:-1"]
    if fit != "contain":
        chain.append("crop={}:{}".format(*_covered((width, height), stream.pixel_aspect, size)))
    chain += [*_scaled(stream, shown), "setsar=1"]
    return ",".join(chain) + ("" if shown == size else _behind(shown, size, background))


def _scaled(stream: VideoStream, size: tuple[int, int]) -> list[str]:
    scale = f"scale={size[0]}:{size[1]}:{_EXACT}"
    if is_hdr(stream):
        return [scale, *to_yuv420p(stream)]
    return [f"{scale}:in_color_matrix={matrix(stream)}:out_color_matrix=bt709:out_range=tv", "format=yuv420p", _BT709]


def _contained(stream: VideoStream, size: tuple[int, int]) -> tuple[int, int]:
    """The largest even size of the shape of the video within `size`; `size` itself where hardly a line is missing."""
    shape = stream.width * stream.pixel_aspect / stream.height
    width, height = min(Fraction(size[0]), size[1] * shape), min(Fraction(size[1]), size[0] / shape)
    if size[0] - width <= 2 and size[1] - height <= 2:
        return size
    return max(2, 2 * round(width / 2)), max(2, 2 * round(height / 2))


def _covered(stored: tuple[int, int], pixel_aspect: Fraction, size: tuple[int, int]) -> tuple[int, int]:
    """The width and height of the part, of a picture of `stored` pixels, that fills `size`."""
    shape = Fraction(*size) / pixel_aspect
    width, height = min(Fraction(stored[0]), stored[1] * shape), min(Fraction(stored[1]), stored[0] / shape)
    return max(1, round(width)), max(1, round(height))


def _behind(shown: tuple[int, int], size: tuple[int, int], background: str) -> str:
    """The end of a chain that lays frames of size `shown` in the middle of a background."""
    at = [(size[i] - shown[i]) // 4 * 2 for i in range(2)]
    made = _blurred(shown, size) if background == "blur" else _colored(size, background)
    return f",split[front][back];[back]{made}[behind];[behind][front]overlay={at[0]}:{at[1]}"


def _blurred(shown: tuple[int, int], size: tuple[int, int]) -> str:
    shrink = max(1.0, max(size) / _SMALL)
    small = [max(2, 2 * math.floor(side / shrink / 2)) for side in size]
    crop = "crop={}:{}".format(*_covered(shown, Fraction(1), size))
    return f"{crop},scale={small[0]}:{small[1]},gblur={small[1] * _BLUR:.3f},scale={size[0]}:{size[1]},setsar=1"


def _colored(size: tuple[int, int], color: str) -> str:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    y, cb, cr = (int(plane[0, 0]) for plane in planes_of(np.array([[[red, green, blue]]], np.uint8)))
    return f"scale=16:16,lutyuv=y={y}:u={cb}:v={cr},scale={size[0]}:{size[1]},setsar=1"
