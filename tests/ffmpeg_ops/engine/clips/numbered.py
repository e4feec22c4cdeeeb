"""Videos whose frames can be told apart: each is gray, and its level says its number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.clips.frames import Frame, Target, frames
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import X264, Media, ffmpeg, stream

STEP, FIRST = 4, 20
SIZE = (64, 48)


def numbered(
    media: Media, count: int = 50, rate: str = "25", options: str = f"{X264} -qp 8", extension: str = "mp4"
) -> Path:
    """A video of up to 50 such frames."""
    level = f"geq=lum='{FIRST}+{STEP}*N':cb=128:cr=128"
    source = f"-f lavfi -i color=black:size=64x48:rate={rate},{level} -frames:v {count}"
    name = f"numbered-{count}-{rate.replace('/', '_')}-{abs(hash(options))}.{extension}"
    return media.made(name, f"{source} {options}")


def number(frame: Frame) -> int:
    """The number of a frame of such a video."""
    luma = frame[: frame.shape[0] * 2 // 3].astype(float).mean()
    found = round((luma - FIRST) / STEP)
    assert abs(luma - FIRST - STEP * found) < 1.5, f"a level of {luma} is no number"
    return found


def numbers_in(path: Path) -> list[int]:
    """The numbers of all frames in a file."""
    shown = stream(path, "video")
    to_raw = ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p"]
    raw = np.frombuffer(ffmpeg("-i", path, *to_raw, "-"), np.uint8)
    return [number(frame) for frame in raw.reshape(-1, shown["height"] * 3 // 2, shown["width"])]


def opened(path: Path, work: Work) -> Clip:
    return Clip.open(path, "scenes[3].url_video", work, lambda text: None)


def numbers(
    path: Path, work: Work, count: int, rate: Fraction | int = 25, start_s: float = 0.0, when_short: str = "freeze"
) -> list[int]:
    """The numbers of the frames that a clip gives."""
    target = Target(SIZE, Fraction(rate))
    with frames(opened(path, work), target, start_s=start_s, count=count, work=work, when_short=when_short) as found:
        return [number(frame) for frame in found]
