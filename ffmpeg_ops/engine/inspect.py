"""What a media file really is: ffprobe's JSON as a frozen MediaInfo."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg, process
from ffmpeg_ops.operation import Work
from wire import sniffing
from wire.errors import AssetHasNoAudio, AssetInvalid, AssetTooLarge, EncodeFailed
from wire.sniffing import sniff_file

MAX_PICTURE, MAX_SIDE = 4096 * 2304, 16_384  # no encoder of H.264 takes a longer side
SOUND_RATES = range(2000, 768_001)  # resampling from a few samples a second takes gigabytes
ENOUGH = 0.98  # of what a damaged file should have
_ROUNDING_S = 0.1  # by which headers and packets may differ
_FIRST_PACKETS = 500  # broadcasts begin in the middle of a group of pictures, and groups may be long
_MAY_BE_ANY_MEDIA = frozenset({sniffing.MP4, sniffing.MATROSKA, sniffing.OGG, sniffing.AVI})


@dataclass(frozen=True)
class VideoStream:
    """A moving picture. `width` and `height` are as shown, after rotation; `duration_s` is None when unknown."""

    index: int
    codec: str
    width: int
    height: int
    frame_rate: Fraction
    frames: int | None
    duration_s: float | None
    pixel_format: str
    rotation: int
    pixel_aspect: Fraction = Fraction(1)  # width of a pixel by its height, as shown
    time_base: Fraction = Fraction(1, 1000)
    color_range: str = ""
    color_transfer: str = ""
    start_s: float = 0.0
    reordered: bool = False  # has B-frames: packets come in another order than they are shown


@dataclass(frozen=True)
class AudioStream:
    """A sound track."""

    index: int
    codec: str
    sample_rate: int
    channels: int
    duration_s: float | None
    start_s: float = 0.0
    profile: str = ""


@dataclass(frozen=True)
class MediaInfo:
    """A media file. `duration_s` is the container's word, which can lie."""

    format: str
    duration_s: float | None
    size_bytes: int
    video: VideoStream | None
    audio: AudioStream | None
    start_s: float = 0.0


def probe(path: Path, work: Work) -> MediaInfo:
    """Read `path` with ffprobe. Raises AssetInvalid when it is not a media file of an allowed format."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", *ffmpeg.INPUT_LIMITS]
    try:
        raw = json.loads(process.output_of([*command, "-i", str(path)], work))
    except EncodeFailed as error:
        if "exceeds specified max pixel count" in (error.detail or ""):
            raise AssetTooLarge(f"The picture has more than {ffmpeg.MAX_PROBED / 1e6:.0f} megapixels.") from error
        raise AssetInvalid(f"The file is {sniff_file(path).label}, not a media file.", detail=error.detail) from error
    streams = raw.get("streams", [])
    return MediaInfo(
        format=raw.get("format", {}).get("format_name", ""),
        duration_s=_seconds(raw.get("format", {})),
        size_bytes=path.stat().st_size,
        video=next((_video(s) for s in streams if _is_moving_picture(s)), None),
        audio=_default_audio([s for s in streams if s.get("codec_type") == "audio"]),
        start_s=_seconds(raw.get("format", {}), "start_time") or 0.0,
    )


def video_asset(path: Path, name: str, work: Work) -> tuple[MediaInfo, VideoStream]:
    """The file that param `name` points to, as a video. Raises AssetInvalid saying what it is instead."""
    info = _asset(path, name, "a video", work)
    _require_rate(info, name)
    if info.video is None:
        raise AssetInvalid(f"{name}: the file has no moving picture; it is {_describe(info, path)}.")
    video = info.video
    if video.pixel_format in {"", "unknown"}:  # not even one frame of its first seconds
        raise AssetInvalid(f"{name}: the video's picture cannot be decoded.")
    if video.duration_s is None:  # Matroska tells the length of the longest stream, a live recording none
        video = replace(video, duration_s=_measured_s(path, name, info, video.index, work))
    if max(video.duration_s or 0, info.duration_s or 0) > ffmpeg.MAX_LENGTH_S:
        raise AssetTooLarge(f"{name}: the video is longer than {ffmpeg.MAX_LENGTH_S // 3600} hours.")
    return info, video


def require_size(stream: VideoStream, name: str) -> None:
    """Raises AssetTooLarge for a picture that takes more memory to decode and encode than a job may have."""
    if stream.width * stream.height > MAX_PICTURE:
        raise AssetTooLarge(f"{name}: the picture has more than {MAX_PICTURE / 1e6:.1f} megapixels (4096x2304).")
    if max(stream.width, stream.height) > MAX_SIDE:
        raise AssetTooLarge(f"{name}: the picture has a side of more than {MAX_SIDE} pixels.")


def audio_asset(path: Path, name: str, work: Work) -> tuple[MediaInfo, AudioStream]:
    """The file that param `name` points to, as sound. Raises AssetInvalid or AssetHasNoAudio."""
    info = _asset(path, name, "an audio file", work)
    _require_rate(info, name)
    if info.audio is None:
        raise AssetHasNoAudio(f"{name}: the file has no audio track.")
    return info, info.audio


def _require_rate(info: MediaInfo, name: str) -> None:
    if info.audio is not None and info.audio.sample_rate not in SOUND_RATES:
        raise AssetInvalid(f"{name}: the sound has an unusable rate of {info.audio.sample_rate} samples a second.")


def pictures(path: Path, stream: VideoStream, work: Work) -> int | None:
    """How many frames of a stream are to be shown, by its packets; None when they cannot be read."""
    count = 0

    def on_packet(flags: str) -> None:
        nonlocal count
        count += bool(flags) and "D" not in flags

    try:
        each_packet(path, ["flags"], on_packet, work, stream.index)
    except EncodeFailed:
        return None
    return count


def each_packet(
    path: Path,
    fields: Sequence[str],
    consume: Callable[[str], object],
    work: Work,
    index: int | None = None,
    *,
    upto_s: float | None = None,
) -> None:
    """Give `consume` the `fields` of every packet of one stream or of all, comma-separated, in ffprobe's own order.

    `upto_s`: of the first so many seconds alone.
    """
    some = [] if index is None else ["-select_streams", str(index)]
    some += [] if upto_s is None else ["-read_intervals", f"%+{upto_s:.6f}"]
    entries = ["-of", "csv=p=0", "-show_entries", f"packet={','.join(fields)}", *some]
    command = ["ffprobe", "-v", "error", *entries, *ffmpeg.INPUT_LIMITS, "-i", str(path)]
    process.each_line_of(command, work, consume, timeout_s=work.limits.timeout_s)


def shows(path: Path, work: Work) -> bool:
    """Whether any picture can be decoded from the first packets of a video."""
    frames: list[str] = []
    entries = ["-of", "csv=p=0", "-select_streams", "v:0", "-show_entries", "frame=pict_type"]
    some = ["-read_intervals", f"%+#{_FIRST_PACKETS}"]
    command = ["ffprobe", "-v", "quiet", *entries, *some, *ffmpeg.DECODE_LIMITS, "-i", str(path)]
    process.each_line_of(command, work, frames.append, timeout_s=work.limits.timeout_s)
    return any(frames)


def _asset(path: Path, name: str, wanted: str, work: Work) -> MediaInfo:
    try:
        return probe(path, work)
    except AssetTooLarge as error:
        raise AssetTooLarge(f"{name}: {error.message}") from error
    except AssetInvalid as error:
        found = sniff_file(path)
        is_wanted = found in _MAY_BE_ANY_MEDIA or (found.label.endswith(" audio") and wanted == "an audio file")
        wrong = " that is damaged or cut off" if is_wanted else f", not {wanted}"
        raise AssetInvalid(f"{name}: the file is {found.label}{wrong}.", detail=error.detail) from error


def _measured_s(path: Path, name: str, info: MediaInfo, index: int, work: Work) -> float | None:
    """How long a stream lasts by its packets; None when they have no times.

    Raises AssetInvalid for a file that is cut off: its header tells of more than its longest stream has.
    """
    starts: dict[int, float] = defaultdict(lambda: math.inf)
    ends: dict[int, float] = defaultdict(lambda: -math.inf)

    def on_packet(line: str) -> None:
        stream, pts, length, *_ = f"{line},,".split(",")
        if stream.isdigit() and (start := _number(pts)) is not None:
            starts[int(stream)] = min(starts[int(stream)], start)
            ends[int(stream)] = max(ends[int(stream)], start + (_number(length) or 0))

    try:
        each_packet(path, ["stream_index", "pts_time", "duration_time"], on_packet, work)
    except EncodeFailed:
        return None
    there_s = max(ends.values(), default=-math.inf)
    if info.duration_s and 0 <= there_s < ENOUGH * info.duration_s - _ROUNDING_S:
        raise AssetInvalid(f"{name}: the file is cut off: {there_s:.1f} of {info.duration_s:.1f} seconds are there.")
    return ends[index] - starts[index] if index in ends else None


def _describe(info: MediaInfo, path: Path) -> str:
    return "audio only" if info.audio else sniff_file(path).label


def _is_moving_picture(stream: Mapping[str, Any]) -> bool:
    cover = stream.get("disposition", {}).get("attached_pic")
    return stream.get("codec_type") == "video" and not cover and int(stream.get("width") or 0) > 0


def _video(stream: Mapping[str, Any]) -> VideoStream:
    rotation = _rotation(stream)
    width, height = int(stream["width"]), int(stream["height"])
    pixel_aspect = _rate(stream.get("sample_aspect_ratio", "").replace(":", "/")) or Fraction(1)
    if rotation % 180:
        width, height, pixel_aspect = height, width, 1 / pixel_aspect
    return VideoStream(
        index=stream["index"],
        codec=stream.get("codec_name", ""),
        width=width,
        height=height,
        frame_rate=_rate(stream.get("avg_frame_rate")) or _rate(stream.get("r_frame_rate")) or Fraction(0),
        frames=int(stream["nb_frames"]) if "nb_frames" in stream else None,
        duration_s=_seconds(stream),
        pixel_format=stream.get("pix_fmt", ""),
        rotation=rotation,
        pixel_aspect=pixel_aspect,
        time_base=_rate(stream.get("time_base")) or Fraction(1, 1000),
        color_range=stream.get("color_range", ""),
        color_transfer=stream.get("color_transfer", ""),
        start_s=_seconds(stream, "start_time") or 0.0,
        reordered=bool(stream.get("has_b_frames")),
    )


def _default_audio(streams: list[Mapping[str, Any]]) -> AudioStream | None:
    """The track that players choose: the one that is marked, otherwise the first."""
    marked = (stream for stream in streams if stream.get("disposition", {}).get("default"))
    chosen = next(marked, streams[0] if streams else None)
    return None if chosen is None else _audio(chosen)


def _audio(stream: Mapping[str, Any]) -> AudioStream:
    return AudioStream(
        index=stream["index"],
        codec=stream.get("codec_name", ""),
        sample_rate=int(stream.get("sample_rate", 0)),
        channels=int(stream.get("channels", 0)),
        duration_s=_seconds(stream),
        start_s=_seconds(stream, "start_time") or 0.0,
        profile=stream.get("profile", ""),
    )


def _rotation(stream: Mapping[str, Any]) -> int:
    sides = (side.get("rotation") for side in stream.get("side_data_list", []))
    return int(next((side for side in sides if side is not None), 0)) % 360


def _seconds(part: Mapping[str, Any], key: str = "duration") -> float | None:
    return _number(part.get(key, ""))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _rate(text: str | None) -> Fraction | None:
    try:
        return Fraction(text or "0") or None
    except ZeroDivisionError:
        return None
