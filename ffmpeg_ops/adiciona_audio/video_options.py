"""FFmpeg's options for the video stream: copied whole, copied up to a packet, or encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ffmpeg_ops.engine import output
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.inspect import MediaInfo, VideoStream
from ffmpeg_ops.engine.packets import each
from ffmpeg_ops.engine.pixels import to_one_size, to_yuv420p
from ffmpeg_ops.operation import Work
from wire.errors import AssetTooLarge

MAX_PACKETS = 1_000_000  # more than four hours at 60 frames a second


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of a video stream."""

    #: When it is shown, in seconds from the first frame.
    shown_s: float
    #: Whether decoding can begin here.
    key: bool


@dataclass(frozen=True)
class Cut:
    """Where a copied video stream ends; see `cut`."""

    #: How many packets are copied.
    packets: int
    #: How many of them are decoded only for others, because they are shown before the first frame.
    hidden: int
    #: How many of them are shown at the end or later.
    late: int
    #: When the last frame that is seen is shown, in seconds.
    last_s: float
    #: When that frame ends, and the output with it, in seconds.
    end_s: float
    #: When the first frame that is left out would be shown, in seconds; `end_s` where there is none.
    next_s: float
    #: The smallest distance between two frames, in seconds.
    gap_s: float


def packets(path: Path, stream: VideoStream, work: Work) -> list[Packet]:
    """The packets of a video stream in stored order, without decoding. Raises AssetTooLarge past MAX_PACKETS."""
    found: list[Packet] = []

    def on_packet(line: str) -> None:
        pts, _, flags = line.partition(",")
        if flags and pts != "N/A" and len(found) <= MAX_PACKETS:
            found.append(Packet(float(pts) - stream.start_s, "K" in flags))

    each(path, ["pts_time", "flags"], on_packet, work, stream.index)
    if len(found) > MAX_PACKETS:
        raise AssetTooLarge(f"url_video: the video has more than {MAX_PACKETS} frames.")
    return found


def copyable(info: MediaInfo, video: VideoStream, shorter: bool) -> bool:
    """Whether MP4 can carry the packets and, for a `shorter` output, whether they can be cut.

    AVI stores decoding times, not display times: it can only be copied whole and without B-frames. Raw streams have no
    times. A stream that describes its codec more than once would lose all but the first description.
    """
    if info.is_raw or info.changes_description or (_is_avi(info) and (shorter or video.reordered)):
        return False
    return video.codec in output.VIDEO_IN_MP4


def input_options(info: MediaInfo, video: VideoStream) -> list[str]:
    """Options of the input that give every packet a timestamp."""
    return ["-fflags", "+genpts"] if _is_avi(info) and not video.reordered else []


def _is_avi(info: MediaInfo) -> bool:
    return "avi" in info.formats


def copy(video: VideoStream, upto: Cut | None = None) -> list[str]:
    """Options that copy the stream, whole or up to a cut."""
    options = ["-c:v", "copy"]
    if video.codec == "hevc":
        options += ["-tag:v", "hvc1"]  # Apple's players refuse the other tag
    if upto is not None:
        late = f"gte(PTS*TB,{upto.next_s - upto.gap_s / 2:.6f})" if upto.late else "0"
        rank = f"floor((PTS*TB-{upto.next_s:.6f})/{upto.gap_s:.6f}+0.25)"
        end = f"round({upto.end_s:.6f}/TB)"
        pts = f"if({late},{end}+{rank},PTS)"
        last = f"gte(PTS*TB,{upto.last_s - upto.gap_s / 2:.6f})"
        duration = f"if({late},1,if({last},{end}-PTS,DURATION))"
        # -frames:v would end the sound as well
        filters = [f"noise=drop='gte(n,{upto.packets})'", f"setts=pts='{pts}':dts=DTS:duration='{duration}'"]
        options += [*_same_ticks(video), "-bsf:v", ",".join(filters)]
    return options


def _same_ticks(video: VideoStream) -> list[str]:
    """FFmpeg 5.1 gives `setts` the output's time base but timestamps in the input's: make both the same."""
    return ["-video_track_timescale", str(video.time_base.denominator)]


def encode(encoder: Encoder, info: MediaInfo, video: VideoStream, video_s: float, length_s: float) -> list[str]:
    """Options that encode the stream, cut or with its last frame held to last `length_s` instead of `video_s`."""
    # AVI's timestamps are guesses, and raw streams have none, but their rate is constant. No setpts for other formats:
    # after it, FFmpeg 7 does not know the frame rate, and so not how long the last frame lasts.
    rate = video.frame_rate
    times = f"N/TB/({rate})" if info.is_raw else "PTS-STARTPTS"
    on_time = [f"setpts={times},fps={rate}"] if info.is_raw or _is_avi(info) else []
    filters = [*on_time, *to_one_size(video), *to_yuv420p(video)]
    if length_s > video_s:
        filters.append(f"tpad=stop_mode=clone:stop_duration={length_s - video_s:.6f}")
    ends: list[str] = []
    if length_s != video_s:
        filters.append(f"trim=end={length_s:.6f}")
        # The last frame is shown until the end: `trim` keeps its whole length, which FFmpeg 5.1 does not even know.
        # MP4 stores the duration of the last packet only.
        last = f"setts=pts=PTS:dts=DTS:duration='max(1,round({length_s:.6f}/TB)-PTS)'"
        ends = ["-enc_time_base:v", f"1/{video.time_base.denominator}", *_same_ticks(video), "-bsf:v", last]
    return ["-vf", ",".join(filters), "-fps_mode", "passthrough", *encoder.arguments, *ends]


def cut(packets: Sequence[Packet], end_s: float, slack_s: float = 0.0) -> Cut:
    """The shortest run of packets that holds every frame shown before `end_s`, by more than `slack_s`.

    The last of those frames is shown until the end. With B-frames the run also holds frames shown after it, because
    others are decoded from them. `copy` moves those to the very end, one tick each: they are not visible, no frame is
    missing, and the length is correct.
    """
    first = next((i for i, packet in enumerate(packets) if packet.key), 0)  # FFmpeg copies from a key frame on
    packets = packets[first:]
    until_s = end_s - slack_s
    count = max((i + 1 for i, packet in enumerate(packets) if packet.shown_s < until_s), default=1)
    shown = sorted(packet.shown_s for packet in packets)
    return Cut(
        packets=count,
        hidden=sum(packet.shown_s < -slack_s for packet in packets[:count]),
        late=sum(packet.shown_s >= until_s for packet in packets[:count]),
        last_s=max((s for s in shown if s < until_s), default=0.0),
        end_s=end_s,
        next_s=next((s for s in shown if s >= until_s), end_s),
        gap_s=min((b - a for a, b in pairwise(shown) if b > a), default=0.001),
    )
