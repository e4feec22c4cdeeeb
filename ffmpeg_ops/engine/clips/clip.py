"""A probed video file: where decoding begins for a moment of it, and when its frames are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ffmpeg_ops.engine import inspect, joined, output
from ffmpeg_ops.engine.pixels import even
from ffmpeg_ops.operation import Work

_INDEXED = frozenset({"mov", "matroska"})
_ROUNDING_S = 0.001  # of timestamps
# Seeking goes by decoding times, which B-frames make earlier than the times at which frames are shown.
_MAX_REORDERED, _EARLY_S = 17, 1.0
_USUAL_RATE = 25  # where none is known


@dataclass(frozen=True)
class Clip:
    """A video that can be decoded. Its time 0 is when its first frame is shown."""

    #: The file, or a copy of it without jumps of its timestamps.
    path: Path
    #: The param that names it.
    name: str
    #: Its probed properties.
    info: inspect.MediaInfo
    #: The video stream that is shown.
    stream: inspect.VideoStream
    #: The length of that stream in seconds, by its header or its packets.
    length_s: float

    @classmethod
    def open(cls, path: Path, name: str, work: Work, warn: Callable[[str], object]) -> Clip:
        """Probe the file of param `name`. Passes what is wrong with it to `warn`, but not what is with its sound.

        Raises AssetInvalid and AssetTooLarge.
        """
        path = joined.continuous(path, name, work, warn)
        info, stream = inspect.video_asset(path, name, work)
        inspect.require_size(stream, name)
        for warning in info.video_warnings:
            warn(warning)
        return cls(path, name, info, stream, output.length_s(info, stream))

    @property
    def counted(self) -> bool:
        """Whether frames are timed by their number: packets have no times, or as in AVI not those of frames."""
        return self.info.is_raw or "avi" in self.info.formats

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height in which it is shown, with square pixels and even sides."""
        return max(2, even(round(self.stream.width * self.stream.pixel_aspect))), even(self.stream.height)

    @property
    def rate(self) -> float:
        """Frames a second, on average."""
        return float(self.stream.frame_rate or _USUAL_RATE)

    def seek(self, start_s: float) -> list[str]:
        """FFmpeg's options of the input that begin at a key frame before `start_s`, or at the first one.

        Only these containers have an index of key frames. In others FFmpeg guesses a place, which may be too late.
        """
        early_s = max(_EARLY_S, _MAX_REORDERED / self.rate) if self.stream.reordered else _ROUNDING_S
        position_s = self.stream.start_s + start_s - self.info.start_s - early_s
        if position_s <= 0 or not self.info.formats & _INDEXED:
            return []
        return ["-noaccurate_seek", "-ss", f"{position_s:.6f}"]

    def on_time(self) -> list[str]:
        """FFmpeg's filters that time frames which are `counted`, from 0 on. Others keep their own timestamps."""
        rate = self.stream.frame_rate or _USUAL_RATE
        if self.info.is_raw:
            return [f"setpts=N/TB/({rate})"]
        return [f"setpts=PTS-STARTPTS,fps={rate}"] if self.counted else []

    def from_start(self, start_s: float) -> list[str]:
        """FFmpeg's filters after which time 0 is `start_s` of the clip. The input needs `-copyts`."""
        origin_s = start_s + (0.0 if self.counted else self.stream.start_s)
        return [*self.on_time(), "settb=AVTB", f"setpts=PTS-({origin_s:.6f})/TB"]
