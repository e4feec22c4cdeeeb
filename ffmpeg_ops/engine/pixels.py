"""Filters that prepare any video for encoding: one size, even sides, 8-bit 4:2:0, limited range, SDR."""

from __future__ import annotations

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.engine.inspect import VideoStream

_HDR = ("smpte2084", "arib-std-b67")  # PQ and HLG
# BT.2408: diffuse white of HDR, 203 cd/m², becomes the white of SDR; what is brighter is compressed below it.
_TONE_MAP = (
    "setparams=range={range}:colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}",
    "zscale=t=linear:npl=203",
    "format=gbrpf32le",
    "zscale=p=bt709",
    "tonemap=mobius:param=0.5:desat=0:peak=5",
    "zscale=t=bt709:m=bt709:r=tv",
    "format=yuv420p",
    "sidedata=mode=delete",
)


def even(side: int) -> int:
    """`side`, or the next even number: yuv420p has no odd sides."""
    return side + side % 2


def to_one_size(stream: VideoStream) -> list[str]:
    """FFmpeg's filters that fit frames of another size than the first into its size, and pad odd sides to even ones."""
    return [
        f"scale={stream.width}:{stream.height}:force_original_aspect_ratio=decrease",
        f"pad={even(stream.width)}:{even(stream.height)}:trunc((ow-iw)/4)*2:trunc((oh-ih)/4)*2",
    ]


def is_hdr_transfer(stream: VideoStream) -> bool:
    """Whether the video is HDR: PQ or HLG."""
    return stream.color_transfer in _HDR


def is_hdr(stream: VideoStream) -> bool:
    """Whether `to_yuv420p` converts the video from HDR."""
    return is_hdr_transfer(stream) and ffmpeg.has_filter("zscale")


def matrix(stream: VideoStream) -> str:
    """The colour matrix that players assume, in the words of FFmpeg's scale: `auto` where the video names it."""
    if stream.color_space not in {"", "unknown"} or _is_rgb(stream):
        return "auto"
    return "bt709" if stream.width >= 1280 or stream.height > 576 else "bt601"


def _is_rgb(stream: VideoStream) -> bool:
    return stream.pixel_format.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal", "0rgb", "0bgr"))


def to_yuv420p(stream: VideoStream) -> list[str]:
    """FFmpeg's filters that convert any pixel format to 8-bit 4:2:0 in limited range, and HDR to BT.709 SDR."""
    full = stream.color_range == "pc"
    if is_hdr(stream):
        return [part.format(transfer=stream.color_transfer, range="pc" if full else "tv") for part in _TONE_MAP]
    if _is_rgb(stream):
        tags = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
        return ["scale=out_color_matrix=bt709:out_range=tv", "format=yuv420p", tags]
    # libass's white is the white of limited range
    return ["scale=out_range=tv", "format=yuv420p"] if full else ["format=yuv420p"]
