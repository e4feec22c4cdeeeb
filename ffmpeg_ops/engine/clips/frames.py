"""Decodes a clip to raw frames: exactly as many as are wanted, whatever its header says."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice, repeat

import numpy as np
import structlog
from numpy.typing import NDArray

from ffmpeg_ops.engine import ffmpeg, inspect, process
from ffmpeg_ops.engine.clips import filters
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, EncodeFailed

log = structlog.get_logger(__name__)

Frame = NDArray[np.uint8]  # I420: height·3/2 rows of `width` bytes; it cannot be written to

WHEN_SHORT = ("freeze", "loop")
_KEPT_BYTES = 64_000_000  # of a clip that is repeated
_SLACK = 2  # frames, for rounding in headers and edit lists
_DECODE = ("ffmpeg", "-hide_banner", "-nostdin", "-v", "repeat+level+warning")


@dataclass(frozen=True)
class Target:
    """What a clip becomes."""

    #: Width and height of the frames in pixels, both even.
    size: tuple[int, int]
    #: Frames a second.
    rate: Fraction
    #: How a clip of another shape fits: `cover` or `contain`.
    fit: str = "cover"
    #: What surrounds a clip that is contained: `blur` or #RRGGBB.
    background: str = "blur"

    @property
    def frame_bytes(self) -> int:
        """The size of a raw frame."""
        return self.size[0] * self.size[1] * 3 // 2


class Frames(Iterator[Frame]):
    """The frames of a clip, in order, and what was found out about the clip until they have ended."""

    def __init__(self, count: int) -> None:
        #: How many frames there are altogether.
        self.count = count
        #: How many of them came from the clip. The others repeat these.
        self.decoded = 0
        #: How many parts of the clip could not be decoded.
        self.errors = 0
        self.source: Iterator[Frame] = iter(())

    def __next__(self) -> Frame:
        return next(self.source)

    def on_error(self, line: str) -> None:
        """Count a line of FFmpeg's log that reports damage."""
        self.errors += ffmpeg.is_decode_error(line)


def arguments(clip: Clip, target: Target, *, start_s: float, count: int) -> list[str]:
    """FFmpeg's arguments that write up to `count` raw frames, from `start_s` of the clip on, to standard output."""
    chain = [*clip.from_start(start_s), *filters.at_rate(target.rate, clip.stream)]
    picture = filters.picture(clip.stream, target.size, target.fit, target.background)
    return [
        *[*ffmpeg.DECODE_LIMITS, *clip.seek(start_s), "-copyts", "-i", str(clip.path)],
        *["-map", f"0:{clip.stream.index}", "-vf", f"{','.join(chain)},{picture}"],
        # A video that changes its size restarts FFmpeg's filters, and loses a frame then, which `cfr` repeats.
        *["-r", str(target.rate), "-fps_mode", "cfr", "-frames:v", str(count)],
        *["-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1"],
    ]


@contextmanager
def frames(
    clip: Clip, target: Target, *, start_s: float, count: int, work: Work, when_short: str = "freeze"
) -> Iterator[Frames]:
    """`count` frames of a clip, from the one that is shown at `start_s` seconds of it, decoded ahead by one FFmpeg.

    A clip that is too short stays on its last frame, or with `when_short="loop"` begins again at `start_s`. The frames
    raise AssetInvalid, with the clip's name, where none can be decoded, or too few of a damaged clip; also JobTimeout,
    WorkerError and the reason of `work.stop`.
    """
    made = Frames(count)

    def opened() -> AbstractContextManager[Iterator[bytes]]:
        command = [*_DECODE, *arguments(clip, target, start_s=start_s, count=count)]
        return process.read(
            command, work, block_bytes=target.frame_bytes, timeout_s=work.limits.timeout_s, on_error=made.on_error
        )

    with opened() as blocks, closing(_exactly(clip, target, made, start_s, blocks, opened, when_short)) as source:
        made.source = source
        yield made


def _exactly(
    clip: Clip,
    target: Target,
    made: Frames,
    start_s: float,
    blocks: Iterator[bytes],
    opened: Callable[[], AbstractContextManager[Iterator[bytes]]],
    when_short: str,
) -> Generator[Frame]:
    last, kept = None, []
    for frame in _decoded(blocks, target, made):
        made.decoded += 1
        last = frame
        if when_short == "loop" and made.decoded * target.frame_bytes <= _KEPT_BYTES:
            kept.append(frame)
        yield frame
    _require_enough(clip, made, float(target.rate) * (clip.length_s - start_s))
    assert last is not None
    left = made.count - made.decoded
    if when_short != "loop":
        yield from repeat(last, left)
        return
    if len(kept) == made.decoded:
        yield from islice(cycle(kept), left)
        return
    while left > 0:
        with opened() as blocks:
            for frame in islice(_decoded(blocks, target, made), left):
                left -= 1
                yield frame


def _decoded(blocks: Iterator[bytes], target: Target, made: Frames) -> Iterator[Frame]:
    width, height = target.size
    try:
        for block in blocks:
            if len(block) == target.frame_bytes:
                yield np.frombuffer(block, np.uint8).reshape(height * 3 // 2, width)
    except EncodeFailed as error:  # a damaged clip; how many frames came before says whether they are enough
        log.warning("clip.decode_failed", tail=error.detail)
        made.errors += 1


def _require_enough(clip: Clip, made: Frames, expected: float) -> None:
    """Raise AssetInvalid where too few frames of a damaged clip could be decoded."""
    if not made.decoded:
        raise AssetInvalid(f"{clip.name}: the video is damaged or cut off: none of its frames could be read.")
    wanted = min(made.count, int(expected))
    if made.errors and made.decoded + _SLACK < inspect.MIN_COMPLETE * wanted:
        text = "the video is damaged or cut off: only {} of about {} frames could be read."
        raise AssetInvalid(f"{clip.name}: {text.format(made.decoded, wanted)}")
