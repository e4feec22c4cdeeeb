"""The picture: copied whole, copied up to a packet, or encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ffmpeg_ops.engine import output
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.inspect import MediaInfo, VideoStream
from ffmpeg_ops.engine.pixels import to_even, to_yuv420p


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet, in the order of decoding. `shown_s` counts from the first picture."""

    shown_s: float
    key: bool


@dataclass(frozen=True)
class Cut:
    """Where a copied picture ends: after `packets` packets, at `end_s`. `late` of them belong behind it; see `cut`."""

    packets: int
    end_s: float
    gap_s: float
    late: int


def copyable(info: MediaInfo, video: VideoStream, shorter: bool) -> bool:
    """Whether MP4 can carry the packets, and, for a `shorter` output, whether they can be cut.

    AVI tells when packets are decoded, not when they are shown: it is copied whole and without B-frames only.
    """
    return video.codec in output.VIDEO_IN_MP4 and not (_avi(info) and (shorter or video.reordered))


def times(info: MediaInfo, video: VideoStream) -> list[str]:
    """Options of the input that give every packet of the picture a time."""
    return ["-fflags", "+genpts"] if _avi(info) and not video.reordered else []


def _avi(info: MediaInfo) -> bool:
    return "avi" in info.format.split(",")


def copy(video: VideoStream, upto: Cut | None = None) -> list[str]:
    """FFmpeg's options for a copied picture."""
    options = ["-c:v", "copy"]
    if video.codec == "hevc":
        options += ["-tag:v", "hvc1"]  # Apple's players refuse the other tag
    if upto is not None:
        filters = [f"noise=drop='gte(n,{upto.packets})'"]  # -frames:v would end the sound as well
        if upto.late:
            late = f"gte(PTS*TB,{upto.end_s - upto.gap_s / 2:.6f})"
            rank = f"floor((PTS*TB-{upto.end_s:.6f})/{upto.gap_s:.6f}+0.25)"
            pts = f"if({late},round({upto.end_s:.6f}/TB)+{rank},PTS)"
            # FFmpeg 5.1 gives this filter the time base of the output and times in that of the input: make them one
            options += ["-video_track_timescale", str(video.time_base.denominator)]
            filters.append(f"setts=pts='{pts}':dts=DTS:duration='if({late},1,DURATION)'")
        options += ["-bsf:v", ",".join(filters)]
    return options


def encode(encoder: Encoder, info: MediaInfo, video: VideoStream, video_s: float, length_s: float) -> list[str]:
    """FFmpeg's options for a picture that is encoded anew, and cut or prolonged by its last frame."""
    # The times of AVI are guesses, its rate is constant. Elsewhere no setpts: FFmpeg 7 forgets the rate behind it, and
    # then how long the last frame is.
    on_time = [f"setpts=PTS-STARTPTS,fps={video.frame_rate}"] if _avi(info) else []
    filters = [*on_time, *to_even(video), *to_yuv420p(video)]
    if length_s > video_s:
        filters.append(f"tpad=stop_mode=clone:stop_duration={length_s - video_s:.6f}")
    if length_s != video_s:
        filters.append(f"trim=end={length_s:.6f}")
    return ["-vf", ",".join(filters), "-fps_mode", "passthrough", *encoder.arguments]


def cut(packets: Sequence[Packet], end_s: float) -> Cut | None:
    """The shortest run of packets that holds every picture shown before `end_s`; None when that is all of them.

    With B-frames it also holds pictures that belong behind the end, because others are made from them. Those are moved
    together to the very end, one tick each: nobody sees them, no picture is missing, and the length is right.
    """
    first = next((i for i, packet in enumerate(packets) if packet.key), 0)  # FFmpeg copies from a key frame on
    packets = packets[first:]
    count = max((i + 1 for i, packet in enumerate(packets) if packet.shown_s < end_s), default=1)
    shown = sorted(packet.shown_s for packet in packets)
    if count >= len(packets):
        return None
    gap_s = min((b - a for a, b in pairwise(shown) if b > a), default=0.001)
    late = sum(packet.shown_s >= end_s for packet in packets[:count])
    return Cut(count, next((s for s in shown if s >= end_s), end_s), gap_s, late)
