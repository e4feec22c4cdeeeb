"""The finished video of any operation: MP4 options, sound that players support, checks and stats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import structlog

from ffmpeg_ops.engine import bitrate, ffmpeg, inspect, mp4, packets
from ffmpeg_ops.engine.mixing.filters import FIRST_TWO
from ffmpeg_ops.operation import Work, output_file
from wire import media_types
from wire.errors import AssetInvalid, EncodeFailed

log = structlog.get_logger(__name__)

MP4 = [
    *ffmpeg.OUTPUT_LIMITS,
    *["-movflags", "+faststart", "-map_metadata", "-1", "-map_chapters", "-1", "-f", "mp4"],
    output_file("video", media_types.MP4),
]
# What browsers play. MP4 can also carry AC-3 and ALAC, but browsers play those silently.
_PLAYED_AUDIO = frozenset({"aac", "mp3"})
# AAC describes other layouts, such as AC-3's and DTS's 5.1(side), in a way that not every player understands.
_PLAYED_LAYOUTS = "mono|stereo|3.0|4.0|5.0|5.1|7.1"
_SLACK = 2  # frames, for rounding in headers and edit lists
COPY = {"encoder": "copy", "device": "cpu"}
VIDEO_IN_MP4 = frozenset({"h264", "hevc", "av1"})  # codecs that current players support


def keep_audio(info: inspect.MediaInfo) -> list[str]:
    """Options that keep the sound: copied where every player supports it, otherwise as AAC."""
    if info.audio is None:
        return ["-an"]
    channels = f"aformat=channel_layouts={_PLAYED_LAYOUTS}" if info.audio.is_mixable else FIRST_TWO
    aac = ["-af", channels, "-c:a", "aac", "-b:a", str(_aac_rate(info.audio))]
    return ["-map", f"0:{info.audio.index}", *(["-c:a", "copy"] if _copies_sound(info, info.audio) else aac)]


def sound_bytes(source: Path, info: inspect.MediaInfo, length_s: float, work: Work) -> int:
    """The size of the sound that `keep_audio` keeps."""
    if info.audio is None:
        return 0
    if _copies_sound(info, info.audio):
        return bitrate.packet_bytes(source, info.audio.index, work)
    return round(_aac_rate(info.audio) / 8 * (info.audio.duration_s or info.duration_s or length_s))


def _aac_rate(audio: inspect.AudioStream) -> int:
    """Bits a second."""
    return max(192_000, 64_000 * audio.channels if audio.is_mixable else 0)


def _copies_sound(info: inspect.MediaInfo, audio: inspect.AudioStream) -> bool:
    # MP4 cannot describe the low sample rates of MPEG-2.5
    played = audio.codec in _PLAYED_AUDIO and (audio.codec != "mp3" or audio.sample_rate >= 16_000)
    return played and not info.changes_description


def length_s(info: inspect.MediaInfo, video: inspect.VideoStream) -> float:
    """The length of the video stream from the best available source. Raises AssetInvalid when there is none."""
    seconds = video.duration_s or info.duration_s
    if seconds is None and video.frames and video.frame_rate:
        seconds = float(video.frames / video.frame_rate)
    if not seconds or seconds <= 0:
        raise AssetInvalid("The length of the video could not be determined.")
    return seconds


def require_frames(made: int, source: Path, stream: inspect.VideoStream, length_s: float, work: Work) -> None:
    """Raise AssetInvalid when fewer than `MIN_COMPLETE` of the source's frames were written: it is damaged."""
    if stream.frames and made >= inspect.MIN_COMPLETE * stream.frames:
        return
    # Both figures may be too high, so the lower one counts: headers include frames that an edit list hides, packets may
    # be fields or frames that are never shown, and the length may be a guess.
    counted = stream.frames or packets.count_frames(source, stream.index, work) or 0
    expected = min(counted, round(length_s * stream.frame_rate))
    if made + _SLACK < inspect.MIN_COMPLETE * expected:
        log.info("source.damaged", frames=made, counted=counted, length_s=length_s, rate=str(stream.frame_rate))
        raise damaged(made, expected)


def damaged(frames: int, wanted: int) -> AssetInvalid:
    """The error for a source with too many missing frames; a retry would not help."""
    return AssetInvalid(f"The video is damaged or cut off: only {frames} of about {wanted} frames could be read.")


def tracks(work: Work) -> dict[str, mp4.Track]:
    """The tracks of the finished file.

    Raises EncodeFailed when it cannot be read, and AssetInvalid when it has no video: FFmpeg found none in the source.
    """
    try:
        found = mp4.tracks(work.output("video"))
    except ValueError as error:
        raise EncodeFailed(detail=str(error)) from error
    if "vide" not in found:
        raise AssetInvalid("The video is damaged or cut off: none of its frames could be read.")
    return found


def require_written(frames: int, work: Work) -> None:
    """Raise EncodeFailed when the finished file does not have exactly `frames` frames."""
    if (there := tracks(work)["vide"].packets) != frames:
        raise EncodeFailed(f"FFmpeg could not make the video: {there} frames were written, not {frames}.")


def made(size: tuple[int, int], frames: int, duration_s: float) -> inspect.MediaInfo:
    """The output as known from the encode, for `stats`."""
    rate = Fraction(frames) / Fraction(duration_s)
    video = inspect.VideoStream(0, "", *size, rate, frames, duration_s, "yuv420p")
    return inspect.MediaInfo("mp4", duration_s, 0, video, None)


def stats(
    work: Work,
    encoder: Mapping[str, str],
    info: inspect.MediaInfo | None = None,
    *,
    warnings: Iterable[str] = (),
    errors: int = 0,
) -> dict[str, Any]:
    """The stats of the finished file, which is probed where `info` is not given.

    `encoder` holds those that name it. `warnings` and the number of decode `errors` of the sources are part of them
    where there are any.
    """
    try:
        info = info or inspect.probe(work.output("video"), work)
    except AssetInvalid as error:
        raise EncodeFailed(detail=error.detail) from error
    if info.video is None:
        raise EncodeFailed(detail="the output has no video stream")
    found = [*warnings, *([f"{errors} decode error{'s' if errors > 1 else ''}"] if errors else [])]
    return {
        "duration_s": round(length_s(info, info.video), 3),
        "size_bytes": work.output("video").stat().st_size,
        "width": info.video.width,
        "height": info.video.height,
        "frames": info.video.frames,
        **encoder,
        "ffmpeg_version": ffmpeg.version(),
        **({"warnings": found} if found else {}),
    }
