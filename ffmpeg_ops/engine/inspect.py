"""Probes media files: ffprobe's JSON as a frozen MediaInfo."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import ffmpeg, flv, mp4, packets, process
from ffmpeg_ops.operation import Work
from wire import sniffing
from wire.errors import AssetHasNoAudio, AssetInvalid, AssetTooLarge, EncodeFailed
from wire.sniffing import sniff_file

MAX_PICTURE, MAX_SIDE = 4096 * 2304, 16_384  # no H.264 encoder takes a longer side
SOUND_RATES = range(2000, 768_001)  # resampling from a few samples a second takes gigabytes
MAX_CHANNELS = 64  # FFmpeg's filters take no more
_GUESSED = 8  # channels of an unknown layout are taken for the usual one
MIN_COMPLETE = 0.98  # the share of a damaged file that must be readable
_MAX_RAW_RATE = 1000  # frames a second
_ROUNDING_S = 0.1  # how much headers and packets may differ
_IMAGES = frozenset({"mjpeg", "png", "bmp", "gif", "webp", "tiff"})
_FIRST_PACKETS = 500  # broadcasts begin in the middle of a group of pictures, and groups may be long
_MAY_BE_ANY_MEDIA = frozenset({sniffing.MP4, sniffing.MATROSKA, sniffing.OGG, sniffing.AVI})


@dataclass(frozen=True)
class VideoStream:
    """A video stream, as ffprobe reports it. Cover art is not one."""

    #: Number of the stream in its file.
    index: int
    #: FFmpeg's name of the codec.
    codec: str
    #: Width in pixels as shown, after rotation.
    width: int
    #: Height in pixels as shown, after rotation.
    height: int
    #: Average frames a second, 0 when unknown.
    frame_rate: Fraction
    #: Number of frames in the header, None when it has none, or as in AVI includes empty packets.
    frames: int | None
    #: Length in seconds, None when unknown.
    duration_s: float | None
    #: FFmpeg's name of the pixel format.
    pixel_format: str
    #: Width of a pixel divided by its height, as shown.
    pixel_aspect: Fraction = Fraction(1)
    #: Unit of the timestamps, in seconds.
    time_base: Fraction = Fraction(1, 1000)
    #: `tv` (limited), `pc` (full) or empty when unknown.
    color_range: str = ""
    #: FFmpeg's name of the transfer characteristics, empty when unknown.
    color_transfer: str = ""
    #: FFmpeg's name of the colour matrix, empty when unknown.
    color_space: str = ""
    #: Timestamp of the first frame, in seconds.
    start_s: float = 0.0
    #: Whether it has B-frames: packets are stored in another order than frames are shown.
    reordered: bool = False
    #: Whether all frames last equally long, as far as FFmpeg has seen: in MP4 all of them.
    constant_rate: bool = False
    #: Degrees clockwise that players turn the picture: 0, 90, 180 or 270.
    rotation: int = 0

    def megapixels(self, seconds: float) -> float:
        """What all frames of the first `seconds` have together, in millions of pixels."""
        return self.width * self.height * float(self.frame_rate) * seconds / 1e6


@dataclass(frozen=True)
class AudioStream:
    """An audio stream, as ffprobe reports it."""

    #: Number of the stream in its file.
    index: int
    #: FFmpeg's name of the codec.
    codec: str
    #: Samples a second.
    sample_rate: int
    #: Number of channels.
    channels: int
    #: Length in seconds, None when unknown.
    duration_s: float | None
    #: Timestamp of the first sample, in seconds.
    start_s: float = 0.0
    #: FFmpeg's name of the codec's profile, `LC` for plain AAC.
    profile: str = ""
    #: FFmpeg's name of the channel layout, empty when unknown.
    layout: str = ""

    @property
    def is_mixable(self) -> bool:
        """Whether FFmpeg knows, or guesses, which channel belongs where."""
        return bool(self.layout) or self.channels <= _GUESSED


@dataclass(frozen=True)
class MediaInfo:
    """A media file, as ffprobe reports it."""

    #: FFmpeg's names of the container, separated by commas: `mov,mp4,m4a,3gp,3g2,mj2`.
    format: str
    #: Length in seconds that the container states, which may be wrong; None when it states none.
    duration_s: float | None
    #: Size of the file.
    size_bytes: int
    #: The video stream that players choose, or the next one where that one cannot be decoded.
    video: VideoStream | None
    #: The audio stream that players choose, or the next one where that one cannot be decoded.
    audio: AudioStream | None
    #: The earliest timestamp in the file, in seconds.
    start_s: float = 0.0
    #: All streams, as ffprobe reports them.
    streams: tuple[Mapping[str, Any], ...] = ()
    #: What is wrong with its video streams, in plain words.
    video_warnings: tuple[str, ...] = ()
    #: What is wrong with its audio streams.
    audio_warnings: tuple[str, ...] = ()
    #: Whether a track describes its codec more than once: its packets cannot be copied.
    changes_description: bool = False

    @property
    def is_raw(self) -> bool:
        """Whether it is a bare H.264 or HEVC stream, which has no timestamps: its frames follow each other evenly."""
        return self.format in {"h264", "hevc"}

    @property
    def formats(self) -> frozenset[str]:
        """The names in `format`."""
        return frozenset(self.format.split(","))


def probe(path: Path, work: Work) -> MediaInfo:
    """Probe `path`. Raises AssetInvalid when it is not a media file of an allowed format, or AssetTooLarge."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", *ffmpeg.INPUT_LIMITS]
    try:
        raw = json.loads(process.output_of([*command, "-i", str(path)], work))
    except EncodeFailed as error:
        if "exceeds specified max pixel count" in (error.detail or ""):
            raise AssetTooLarge(f"The video has more than {ffmpeg.MAX_PROBED / 1e6:.0f} megapixels.") from error
        raise AssetInvalid(f"The file is {sniff_file(path).label}, not a media file.", detail=error.detail) from error
    streams, formats = raw.get("streams", []), raw.get("format", {}).get("format_name", "")
    shown, missed = _chosen(path, [s for s in streams if _is_video(s)], "video", work)
    heard, unheard = _chosen(path, [s for s in streams if s.get("codec_type") == "audio"], "sound", work)
    video = video_stream(shown) if shown else None
    duration_s = _played_s(raw.get("format", {}), streams)
    if video is not None and video.frames and formats == "avi":
        # FFmpeg shortens the length that it states for a file which is cut off
        duration_s = max(duration_s or 0.0, float(video.frames / (video.frame_rate or 1)))
        video = replace(video, frames=None)
    return MediaInfo(
        format=formats,
        duration_s=duration_s,
        size_bytes=path.stat().st_size,
        video=video,
        audio=_audio(heard) if heard else None,
        start_s=seconds(raw.get("format", {}), "start_time") or 0.0,
        streams=tuple(streams),
        video_warnings=missed,
        audio_warnings=unheard,
        changes_description=("mov" in formats and mp4.changes_description(path))
        or (formats == "flv" and flv.changes_description(path)),
    )


def video_asset(path: Path, name: str, work: Work) -> tuple[MediaInfo, VideoStream]:
    """Probe the file of param `name` as a video. Raises AssetInvalid, with what it is instead, or AssetTooLarge."""
    info = _asset(path, name, "a video", work)
    if info.video is None:
        kind = "audio only" if info.audio else sniff_file(path).label
        raise AssetInvalid(f"{name}: the file has no video stream; it is {kind}.")
    return info, _checked(path, name, info, info.video, work)


def media_asset(path: Path, name: str, work: Work) -> MediaInfo:
    """Probe the file of param `name` as video or sound. Raises like `video_asset`."""
    info = _asset(path, name, "a video or sound", work)
    if info.video is not None:
        return replace(info, video=_checked(path, name, info, info.video, work))
    if info.audio is None and info.audio_warnings:
        raise AssetInvalid(f"{name}: the file's sound cannot be decoded.")
    if info.audio is None:
        raise AssetInvalid(f"{name}: the file has neither video nor sound; it is {sniff_file(path).label}.")
    return info


def _checked(path: Path, name: str, info: MediaInfo, video: VideoStream, work: Work) -> VideoStream:
    """The video stream with its length measured where the header says nothing reliable."""
    if video.pixel_format in {"", "unknown"}:  # ffprobe could not decode a single frame
        raise AssetInvalid(f"{name}: the video cannot be decoded.")
    if info.is_raw and video.frame_rate > _MAX_RAW_RATE:
        raise AssetInvalid(f"{name}: a raw stream of {float(video.frame_rate):.0f} frames a second is not supported.")
    if video.duration_s is None or info.format == "avi":
        # Matroska states the length of the longest stream, a live recording none, and AVI counts what is missing
        video = replace(video, duration_s=_measured_s(path, name, info, video, work))
    elif _may_end_later(info, video):
        measured_s = _measured_s(path, name, info, video, work) or 0
        video = replace(video, duration_s=max(video.duration_s, measured_s))
    if max(video.duration_s or 0, info.duration_s or 0) > ffmpeg.MAX_LENGTH_S:
        raise AssetTooLarge(f"{name}: the video is longer than {ffmpeg.MAX_LENGTH_S // 3600} hours.")
    return video


def require_size(stream: VideoStream, name: str) -> None:
    """Raise AssetTooLarge for frames that take more memory to decode and encode than a job may have."""
    if stream.width * stream.height > MAX_PICTURE:
        raise AssetTooLarge(f"{name}: the video has more than {MAX_PICTURE / 1e6:.1f} megapixels (4096x2304).")
    if max(stream.width, stream.height) > MAX_SIDE:
        raise AssetTooLarge(f"{name}: the video has a side of more than {MAX_SIDE} pixels.")


def audio_asset(path: Path, name: str, work: Work) -> tuple[MediaInfo, AudioStream]:
    """Probe the file of param `name` as sound. Raises AssetInvalid or AssetHasNoAudio."""
    info = _asset(path, name, "an audio file", work)
    if info.audio is None and info.audio_warnings:
        raise AssetInvalid(f"{name}: the file's sound cannot be decoded.")
    if info.audio is None:
        raise AssetHasNoAudio(f"{name}: the file has no audio track.")
    return info, info.audio


def is_decodable(path: Path, work: Work, stream: str = "v:0") -> bool:
    """Whether any frame can be decoded from the first packets of a stream, by default of the first video stream."""
    frames: list[str] = []
    entries = ["-of", "csv=p=0", "-select_streams", stream, "-show_entries", "frame=media_type"]
    first = ["-read_intervals", f"%+#{_FIRST_PACKETS}"]
    command = ["ffprobe", "-v", "quiet", *entries, *first, *ffmpeg.DECODE_LIMITS, "-i", str(path)]
    process.each_line_of(command, work, frames.append, timeout_s=work.limits.timeout_s)
    return any(frames)


def _asset(path: Path, name: str, wanted: str, work: Work) -> MediaInfo:
    try:
        info = probe(path, work)
    except AssetTooLarge as error:
        raise AssetTooLarge(f"{name}: {error.message}") from error
    except AssetInvalid as error:
        found = sniff_file(path)
        is_wanted = found in _MAY_BE_ANY_MEDIA or (found.label.endswith(" audio") and wanted != "a video")
        wrong = " that is damaged or cut off" if is_wanted else f", not {wanted}"
        raise AssetInvalid(f"{name}: the file is {found.label}{wrong}.", detail=error.detail) from error
    info = replace(
        info,
        video_warnings=tuple(f"{name}: {warning}" for warning in info.video_warnings),
        audio_warnings=tuple(f"{name}: {warning}" for warning in info.audio_warnings),
    )
    if info.audio is not None and info.audio.sample_rate not in SOUND_RATES:
        raise AssetInvalid(f"{name}: a sample rate of {info.audio.sample_rate} Hz is not supported.")
    if info.audio is not None and info.audio.channels > MAX_CHANNELS:
        raise AssetInvalid(f"{name}: a sound of {info.audio.channels} channels is not supported.")
    return info


def _may_end_later(info: MediaInfo, video: VideoStream) -> bool:
    """Whether the header's length may leave out a long last frame: in MP4 it is the sum of the decoding times.

    A video of which an edit list hides frames is as long as the header says.
    """
    if not video.duration_s or not info.duration_s or not video.reordered or "mov" not in info.formats:
        return False
    hides_frames = (video.frames or 0) > video.duration_s * video.frame_rate + 2
    return info.duration_s > video.duration_s + _ROUNDING_S and not hides_frames


def _measured_s(path: Path, name: str, info: MediaInfo, video: VideoStream, work: Work) -> float | None:
    """The length of a video stream by its packets; None when they have no timestamps.

    Raises AssetInvalid for a file that is cut off: its header states a longer time than its longest stream has.
    """
    if info.is_raw and video.frame_rate:
        return float((packets.count_frames(path, video.index, work) or 0) / video.frame_rate)
    starts: dict[int, float] = defaultdict(lambda: math.inf)
    ends: dict[int, float] = defaultdict(lambda: -math.inf)

    def on_packet(line: str) -> None:
        stream, pts, dts, length, *_ = f"{line},,,".split(",")
        if stream.isdigit() and (start := packets.shown_s(pts, dts)) is not None:
            starts[int(stream)] = min(starts[int(stream)], start)
            ends[int(stream)] = max(ends[int(stream)], start + (packets.number(length) or 0))

    try:
        packets.each(path, ["stream_index", "pts_time", "dts_time", "duration_time"], on_packet, work)
    except EncodeFailed:
        return None
    found_s = max(ends.values(), default=-math.inf)
    if info.duration_s and 0 <= found_s < MIN_COMPLETE * info.duration_s - _ROUNDING_S:
        raise AssetInvalid(f"{name}: the file is cut off: {found_s:.1f} of {info.duration_s:.1f} seconds can be read.")
    return ends[video.index] - starts[video.index] if video.index in ends else None


def _is_video(stream: Mapping[str, Any]) -> bool:
    cover = _disposition(stream, "attached_pic")
    return stream.get("codec_type") == "video" and not cover and int(stream.get("width") or 0) > 0


def video_stream(stream: Mapping[str, Any]) -> VideoStream:
    """A video stream from what ffprobe reports about it."""
    width, height = int(stream["width"]), int(stream["height"])
    pixel_aspect = _rate(stream.get("sample_aspect_ratio", "").replace(":", "/")) or Fraction(1)
    rotation = _rotation(stream)
    if rotation % 180:
        width, height, pixel_aspect = height, width, 1 / pixel_aspect
    return VideoStream(
        index=stream["index"],
        codec=stream.get("codec_name", ""),
        width=width,
        height=height,
        frame_rate=_rate(stream.get("avg_frame_rate")) or _rate(stream.get("r_frame_rate")) or Fraction(0),
        frames=int(stream["nb_frames"]) if "nb_frames" in stream else None,
        duration_s=seconds(stream),
        pixel_format=stream.get("pix_fmt", ""),
        pixel_aspect=pixel_aspect,
        time_base=_rate(stream.get("time_base")) or Fraction(1, 1000),
        color_range=stream.get("color_range", ""),
        color_transfer=stream.get("color_transfer", ""),
        color_space=stream.get("color_space", ""),
        start_s=seconds(stream, "start_time") or 0.0,
        reordered=bool(stream.get("has_b_frames")),
        constant_rate=stream.get("avg_frame_rate") == stream.get("r_frame_rate"),
        rotation=-round(rotation / 90) * 90 % 360,
    )


def _chosen(
    path: Path, streams: list[Mapping[str, Any]], kind: str, work: Work
) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """The stream of a kind that players choose, and a warning where that is not the first choice.

    Players prefer the stream marked as default, pass over thumbnails, and take the first one that they can decode:
    phones put sound in a format that hardly any player knows before AAC. A single stream is taken as it is, unless
    FFmpeg has no decoder for a sound.
    """
    choices = sorted(streams, key=lambda stream: (_is_thumbnail(stream), not _disposition(stream, "default")))
    form = "sample_fmt" if kind == "sound" else "pix_fmt"
    if choices and kind == "sound" and not any(stream.get(form) for stream in choices):
        return None, ("its sound cannot be decoded; it was left out",)
    if len(choices) < 2:
        return (choices[0] if choices else None), ()
    decodable = (s for s in choices if s.get(form) and is_decodable(path, work, str(s["index"])))
    chosen = next(decodable, choices[0])
    if chosen is choices[0]:
        return chosen, ()
    numbers = [streams.index(stream) + 1 for stream in (choices[0], chosen)]
    return chosen, ("{} track {} cannot be decoded; track {} was used".format(kind, *numbers),)


def _is_thumbnail(stream: Mapping[str, Any]) -> bool:
    marked = any(_disposition(stream, name) for name in ("timed_thumbnails", "still_image"))
    return marked or stream.get("codec_name") in _IMAGES


def _disposition(stream: Mapping[str, Any], name: str) -> bool:
    return bool(stream.get("disposition", {}).get(name))


def _audio(stream: Mapping[str, Any]) -> AudioStream:
    return AudioStream(
        index=stream["index"],
        codec=stream.get("codec_name", ""),
        sample_rate=int(stream.get("sample_rate", 0)),
        channels=int(stream.get("channels", 0)),
        duration_s=seconds(stream),
        start_s=seconds(stream, "start_time") or 0.0,
        profile=stream.get("profile", ""),
        layout=stream.get("channel_layout", ""),
    )


def _rotation(stream: Mapping[str, Any]) -> int:
    sides = (side.get("rotation") for side in stream.get("side_data_list", []))
    return int(next((side for side in sides if side is not None), 0)) % 360


def _played_s(container: Mapping[str, Any], streams: list[Mapping[str, Any]]) -> float | None:
    """The length that the container states, without data that lasts longer: some cameras' timecode takes 12 hours."""
    played, others, stated_s = [0.0], [0.0], seconds(container)
    for stream in streams:
        group = played if stream.get("codec_type") in {"video", "audio"} else others
        group.append((seconds(stream, "start_time") or 0.0) + (seconds(stream) or 0.0))
    outlasted = stated_s and 0 < max(played) < max(others) and max(others) > stated_s - _ROUNDING_S
    return max(played) if outlasted else stated_s


def seconds(part: Mapping[str, Any], key: str = "duration") -> float | None:
    """A time in what ffprobe reports; None where it is unknown, as in a Windows Media file of less than 0 seconds."""
    found = packets.number(part.get(key, ""))
    return None if key == "duration" and found is not None and found < 0 else found


def _rate(text: str | None) -> Fraction | None:
    try:
        return Fraction(text or "0") or None
    except ZeroDivisionError:
        return None
