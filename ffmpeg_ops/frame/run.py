"""Finds the frames by the video's packets, and decodes each from the key frame before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg, inspect, packets, process
from ffmpeg_ops.engine.clips.clip import Clip
from ffmpeg_ops.engine.pixels import is_hdr, matrix, to_one_size, to_yuv420p
from ffmpeg_ops.frame import Moment, moments
from ffmpeg_ops.operation import Work
from wire.errors import AssetInvalid, EncodeFailed, InvalidParams

MAX_SIDE = 16_383  # of WebP
_ENCODERS = {
    "jpeg": ["-c:v", "mjpeg", "-q:v", "2", "-huffman", "optimal"],
    "png": ["-c:v", "png"],
    "webp": ["-c:v", "libwebp", "-quality", "90"],
}
_PIXELS = {"jpeg": "yuvj420p", "png": "rgb24", "webp": "bgra"}
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_ROUNDING_S = 0.001  # of lengths and moments
_NEAR_S = 0.0004  # of timestamps, less than half of any distance between two frames
_NEARBY_S = 10.0  # where a frame that can be decoded is looked for first


@dataclass(frozen=True)
class Video:
    """A video and its frames."""

    #: The file.
    clip: Clip
    #: When each frame is shown, in order, in the timestamps of the file, or as `Clip.on_time` counts them.
    times: Sequence[float]

    @classmethod
    def open(cls, path: Path, work: Work, warn: Callable[[str], object]) -> Video:
        """Probe a file. Raises like `Clip.open`."""
        clip = Clip.open(path, "url_video", work, warn)
        times: Sequence[float] = [i / clip.rate for i in range(max(1, round(clip.length_s * clip.rate)))]
        if not clip.counted:
            times = packets.frame_times(clip.path, clip.stream.index, work) or [clip.stream.start_s]
        return cls(clip, times)

    def shown_at(self, moment: Moment, name: str) -> float:
        """The timestamp of the frame that is shown at a moment. Raises InvalidParams for one after the end."""
        if isinstance(moment, str):
            ends = {"first": self.times[0], "last": self.times[-1]}
            return ends[moment] if moment in ends else self._before(self.clip.length_s / 2)
        end_s = max(self.clip.length_s, self.times[-1] - self.times[0])
        if moment > end_s + _ROUNDING_S:
            raise InvalidParams(f"{name}: the video ends after {end_s:.2f} seconds.")
        return self._before(moment)

    def _before(self, seconds: float) -> float:
        after = bisect_right(self.times, self.times[0] + seconds + _ROUNDING_S)
        return self.times[max(0, after - 1)]

    def seek(self, time_s: float) -> list[str]:
        """FFmpeg's options that begin at the key frame before a timestamp, where the file can be searched."""
        position_s = time_s - self.clip.info.start_s - _ROUNDING_S
        return [] if self.clip.counted or position_s <= 0 else ["-noaccurate_seek", "-ss", f"{position_s:.6f}"]


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    warnings: list[str] = []
    video = Video.open(assets["url_video"], work, warnings.append)
    wanted = moments(params)
    single = len(wanted) == 1 and "frame" in wanted
    names = {key: "at" if single else f"at[{i}]" for i, key in enumerate(wanted)}
    times = {key: video.shown_at(moment, names[key]) for key, moment in wanted.items()}
    picture = _Picture(video, params, replace(work, progress=lambda share: None))
    shown = []
    for i, (key, time_s) in enumerate(times.items(), 1):
        found_s = picture.take(time_s, work.output(key))
        if found_s != time_s and wanted[key] != "last":
            text = "{}: the frame at {:.3f} s cannot be decoded; that at {:.3f} s was used"
            warnings.append(text.format(names[key], time_s - video.times[0], found_s - video.times[0]))
        shown.append(round(found_s - video.times[0], 3))
        work.progress(i / len(times))
    stats = {"ffmpeg_version": ffmpeg.version(), **({"warnings": warnings} if warnings else {})}
    return {**stats, "result": {"times": shown, "width": picture.size[0], "height": picture.size[1]}}


class _Picture:
    """Takes frames of one video."""

    def __init__(self, video: Video, params: Mapping[str, Any], work: Work) -> None:
        self._video, self._work, self._format = video, work, params["format"]
        self.size = _size(video.clip.stream, params.get("width"))

    def take(self, time_s: float, made: Path) -> float:
        """Write the frame at a timestamp, or the last one before it that can be decoded; return when it is shown.

        Raises AssetInvalid where there is none.
        """
        if self._write(time_s, made, self._video.seek(time_s)):
            return time_s
        for since_s in (time_s - _NEARBY_S, None):
            for found_s in self._decodable(since_s, time_s)[:1]:
                if self._write(found_s, made, self._video.seek(found_s)) or self._write(found_s, made, []):
                    return found_s
        raise AssetInvalid("url_video: the video is damaged: none of its frames could be decoded there.")

    def _write(self, time_s: float, made: Path, seek: list[str]) -> bool:
        """Whether the frame at a timestamp could be written; `seek` says where FFmpeg begins to decode."""
        made.unlink(missing_ok=True)
        near = f"settb=AVTB,trim=start={time_s - _NEAR_S:.6f}:end={time_s + _NEAR_S:.6f}"
        chain = ",".join([*self._video.clip.on_time(), near, *self._filters()])
        source = [*ffmpeg.DECODE_LIMITS, *seek, "-copyts", "-i", str(self._video.clip.path)]
        picture = [
            "-map",
            f"0:{self._video.clip.stream.index}",
            "-vf",
            chain,
            "-fps_mode",
            "passthrough",
            "-frames:v",
            "1",
        ]
        form = [*_ENCODERS[self._format], "-map_metadata", "-1", "-f", "image2", "-update", "1", made.name]
        try:
            ffmpeg.encode([*source, *picture, *form], self._work, length_s=ffmpeg.MAX_LENGTH_S, made=made)
        except (AssetInvalid, EncodeFailed):
            pass  # the frame cannot be decoded, or FFmpeg began to decode after it
        return made.exists() and made.stat().st_size > 0

    def _filters(self) -> list[str]:
        """FFmpeg's filters that turn a decoded frame into pixels of the picture."""
        stream, (width, height) = self._video.clip.stream, self.size
        if is_hdr(stream):  # made SDR in 4:2:0, which has even sides only
            whole = [
                *to_one_size(stream),
                *to_yuv420p(stream),
                "format=rgb24",
                f"crop={stream.width}:{stream.height}:0:0",
            ]
        else:
            fit = f"{stream.width}:{stream.height}:force_original_aspect_ratio=decrease"
            centred = f"pad={stream.width}:{stream.height}:(ow-iw)/2:(oh-ih)/2"
            whole = [f"scale={fit}:in_color_matrix={matrix(stream)}:{_EXACT}", "format=rgb24", centred]
        return [*whole, "setsar=1", f"scale={width}:{height}:flags=lanczos", f"format={_PIXELS[self._format]}"]

    def _decodable(self, since_s: float | None, until_s: float) -> list[float]:
        """Timestamps of frames that can be decoded, up to one, the latest first; from the start without `since_s`."""
        found: list[float] = []
        entries = ["-of", "csv=p=0", "-show_entries", "frame=best_effort_timestamp_time"]
        begin = "" if since_s is None or self._video.clip.counted else f"{since_s:.6f}"
        selected = [
            "-select_streams",
            str(self._video.clip.stream.index),
            "-read_intervals",
            f"{begin}%{until_s + 1:.6f}",
        ]
        command = ["ffprobe", "-v", "quiet", *entries, *(selected[:2] if self._video.clip.counted else selected)]

        def on_frame(line: str) -> None:
            time_s = packets.number(line.rstrip(","))
            if self._video.clip.counted:
                time_s = len(found) / float(self._video.clip.stream.frame_rate or 25)
            if time_s is not None:
                found.append(time_s)

        command += [*ffmpeg.DECODE_LIMITS, "-i", str(self._video.clip.path)]
        process.each_line_of(command, self._work, on_frame, timeout_s=self._work.limits.timeout_s)
        return sorted((time_s for time_s in found if time_s <= until_s + _NEAR_S), reverse=True)


def _size(stream: inspect.VideoStream, width: int | None) -> tuple[int, int]:
    """Width and height of the picture: as the video is shown, or scaled to `width`. Raises InvalidParams."""
    shown_width, shown_height = stream.width * stream.pixel_aspect, stream.height
    scale = 1 if width is None else width / shown_width
    scaled = max(1, round(shown_width * scale)), max(1, round(shown_height * scale))
    if max(scaled) > MAX_SIDE:
        raise InvalidParams(f"width: the picture would have {scaled[0]}x{scaled[1]} pixels; at most {MAX_SIDE} a side.")
    return scaled
