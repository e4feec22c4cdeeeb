"""The two source files of a job: their probed properties, and FFmpeg's options that read them in sync."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ffmpeg_ops.adiciona_audio import video_options
from ffmpeg_ops.engine import ffmpeg, inspect, joined, output
from ffmpeg_ops.engine.mixing import measure, predecode
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid

T = TypeVar("T")

_LONG_FRAME_S = 0.04
_REPEATED_IN_MEMORY_S = 60.0

# Since FFmpeg 6, timestamps of these formats count from the first stream that is used.
_COUNTED_FROM_USED_STREAMS = frozenset({"mpegts", "mpeg", "ogg"})


@dataclass(frozen=True)
class Sources:
    """Both files of a job."""

    #: The video file.
    video: Path
    #: The probed properties of the video file.
    info: inspect.MediaInfo
    #: Its video stream.
    stream: inspect.VideoStream
    #: The file with the new sound.
    audio: Path
    #: The probed properties of that file.
    audio_info: inspect.MediaInfo
    #: The new sound; its `start_s` counts from the start of the file.
    sound: inspect.AudioStream
    #: The video's own sound, None where it is not heard.
    original: inspect.AudioStream | None
    #: Length of the video stream in seconds.
    video_s: float
    #: Whether the sounds were decoded to files first; if so, `audio` is such a file.
    predecoded: bool = False
    #: The file that `original` was decoded to.
    original_file: Path | None = None
    #: Whether `audio` is read again and again, without end.
    repeated: bool = False
    #: Decode errors met while decoding to files.
    errors: int = 0
    #: Warnings about files whose timestamps jump, of which `video` and `audio` are continuous copies.
    jumps: tuple[str, ...] = ()

    @classmethod
    def probe(cls, video: Path, audio: Path, work: Work, *, mixed: bool) -> Sources:
        """Probe both files concurrently: starting ffprobe takes as long as copying the streams."""
        found: list[str] = []
        with ThreadPoolExecutor(2) as pool:
            first = submit(pool, lambda: _continuous(video, "url_video", inspect.video_asset, work, found.append))
            second = submit(pool, lambda: _continuous(audio, "url_audio", inspect.audio_asset, work, found.append))
            (video, (info, stream)), (audio, (audio_info, sound)) = first(), second()
        sound = replace(sound, start_s=sound.start_s - audio_info.start_s)
        original = info.audio if mixed else None
        video_s = output.length_s(info, stream)
        return cls(video, info, stream, audio, audio_info, sound, original, video_s, jumps=tuple(sorted(found)))

    def predecode(self, max_s: float, work: Work) -> Sources:
        """These sources with `max_s` of the new sound, and the original where it is heard, decoded to files."""
        sources = self if self.predecoded else self._predecoded_new(max_s, work)
        errors, original_file = sources.errors, None
        if (original := self.original) is not None:
            needed_s = self.video_s + max(0.0, self.stream.start_s - original.start_s)
            original_file, more = predecode.decode(self.video, original, "original.w64", needed_s, work)
            errors += more
        return replace(sources, original_file=original_file, errors=errors)

    def repeat(self, work: Work) -> Sources:
        """These sources for a new sound that is repeated; a long one is decoded to a file, which is read repeatedly.

        The filter that repeats a short one keeps all of it in memory.
        """
        sound_s = self.sound.duration_s or self.audio_info.duration_s
        if sound_s is not None and sound_s <= _REPEATED_IN_MEMORY_S:
            return self
        return replace(self._predecoded_new(self.video_s, work), repeated=True)

    def _predecoded_new(self, max_s: float, work: Work) -> Sources:
        audio, errors = predecode.decode(self.audio, self.sound, "new.w64", max_s, work)
        sound = replace(self.sound, index=0, codec=predecode.CODEC)
        return replace(self, audio=audio, sound=sound, predecoded=True, errors=errors)

    @property
    def frame_s(self) -> float:
        """How long one frame is shown, in seconds."""
        return float(1 / self.stream.frame_rate) if self.stream.frame_rate else 0.04

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the files, as far as they are used, in plain words."""
        heard = self.info.audio_warnings if self.original or not self.info.audio else ()
        return (*self.jumps, *self.info.video_warnings, *heard, *self.audio_info.audio_warnings)

    @property
    def header_frames(self) -> int | None:
        """The number of frames in the header; None where it is unreliable: that of AVI includes empty packets."""
        return self.stream.frames if "mov" in self.info.formats else None

    @property
    def slack_s(self) -> float:
        """How much two lengths of the video may differ: half a frame, of which a slideshow has long ones."""
        return min(self.frame_s, _LONG_FRAME_S) / 2

    @property
    def hides_frames(self) -> bool:
        """Whether an edit list shows less of the video than its packets hold."""
        return (self.header_frames or 0) > self.video_s / self.frame_s + 2

    def is_extended_by(self, length_s: float) -> bool:
        """Whether an output of `length_s` lasts longer than the video."""
        return length_s > self.video_s + self.slack_s

    def is_cut_by(self, length_s: float) -> bool:
        """Whether an output of `length_s` ends before the video does."""
        return length_s < self.video_s - self.slack_s

    def sound_s(self, work: Work) -> float:
        """The decoded length of the new sound.

        Raises AssetInvalid when none of it can be decoded, and UnsteadySound, also for damaged ADTS, whose packets
        cannot all be copied.
        """
        seconds, whole = measure.length_s(self.audio, self.sound, work)
        if not seconds:
            raise AssetInvalid("url_audio: the file's sound cannot be decoded.")
        if not whole and self.audio_info.format == "aac" and not self.predecoded:
            raise measure.UnsteadySound("damaged ADTS")
        return seconds

    def packets_before(self, length_s: float, work: Work) -> list[video_options.Packet]:
        """The video stream's packets. Raises AssetInvalid where the file is cut off before `length_s`."""
        packets = video_options.packets(self.video, self.stream, work)
        found_s = max((packet.shown_s for packet in packets), default=0.0) + self.frame_s
        expected = self.header_frames
        if expected and len(packets) < inspect.MIN_COMPLETE * expected and found_s < inspect.MIN_COMPLETE * length_s:
            raise output.damaged(len(packets), expected)
        return packets

    def inputs(self, sound_end_s: float | None = None, *, decoded: bool = False) -> list[str]:
        """FFmpeg's options for all inputs, with the limits for a video that is to be `decoded` or only copied.

        Only packets of the new sound before `sound_end_s` are read. The output begins with the first video frame, even
        if another stream of the video file begins earlier.
        """
        heard_s = [self.original.start_s] if self.original and not self.original_file else []
        offset = _offset(_time_zero_s(self.info, [self.stream.start_s, *heard_s]) - self.stream.start_s)
        limits = ffmpeg.DECODE_LIMITS if decoded else ffmpeg.INPUT_LIMITS
        video = [*offset, *video_options.input_options(self.info, self.stream), *limits, "-i", str(self.video)]
        until = [] if sound_end_s is None else ["-t", f"{sound_end_s:.6f}"]
        until += ["-stream_loop", "-1"] if self.repeated else []
        new = [*_offset(self._sound_offset_s), *until, *ffmpeg.INPUT_LIMITS, "-i", str(self.audio)]
        if self.original is None or self.original_file is None:
            return [*video, *new]
        offset = _offset(self.original.start_s - self.stream.start_s)
        return [*video, *new, *offset, *ffmpeg.INPUT_LIMITS, "-i", str(self.original_file)]

    @property
    def _sound_offset_s(self) -> float:
        if self.predecoded:
            return self.sound.start_s
        file_s = self.audio_info.start_s
        return _time_zero_s(self.audio_info, [file_s + self.sound.start_s]) - file_s


def _continuous(
    path: Path, name: str, probe: Callable[[Path, str, Work], T], work: Work, warn: Callable[[str], object]
) -> tuple[Path, T]:
    path = joined.continuous(path, name, work, warn)
    return path, probe(path, name, work)


def submit(pool: ThreadPoolExecutor, task: Callable[[], T]) -> Callable[[], T]:
    """Begin `task`, with the fields of this thread's log lines; returns what waits for its result."""
    return pool.submit(contextvars.copy_context().run, task).result


def _time_zero_s(info: inspect.MediaInfo, used_s: Sequence[float]) -> float:
    """The time in a file from which FFmpeg counts. `used_s`: when the streams that it reads begin."""
    if _COUNTED_FROM_USED_STREAMS & info.formats and ffmpeg.is_from(6):
        return min(used_s)
    return info.start_s


def _offset(by_s: float) -> list[str]:
    return ["-itsoffset", f"{by_s:.6f}"] if abs(by_s) > 1e-6 else []
