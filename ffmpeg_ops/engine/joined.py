"""Recordings whose timestamps jump: they were joined byte by byte, or restarted midway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg, flv, packets
from ffmpeg_ops.operation import Work
from wire import sniffing
from wire.errors import AssetInvalid, EncodeFailed

_BACK_S, _AHEAD_S = 0.1, 10  # what FFmpeg, too, takes for a jump in a broadcast
_NEVER_AHEAD_S = 10_000  # no player waits so long in any other file
_MAX_PARTS = 200  # of which each is a part of a filter's expression
_ANY_TIME_S = 1_000_000_000  # FFmpeg drops timestamps that are further away
_LARGER = 2  # how much larger the copy may be; it has more padding
_BROADCASTS = frozenset({sniffing.TRANSPORT, sniffing.MPEG})
# By FFmpeg's name. The copy is of the same kind, so that its timestamps have the same unit: FFmpeg 5.1 mixes both up.
_RECORDINGS = {sniffing.MATROSKA: "matroska", sniffing.FLV: "flv"}


def continuous(path: Path, name: str, work: Work, warn: Callable[[str], object]) -> Path:
    """`path`, or where its timestamps jump a copy in which they do not: its header states the length of one part.

    Passes a warning about the file of param `name` to `warn`. A file that cannot be read is returned as it is.
    """
    kind = sniffing.sniff_file(path)
    try:
        if kind == sniffing.FLV and flv.changes_description(path):
            return path  # a copy could not be decoded
        if kind in _BROADCASTS:
            streams = ["-map", "0:v?", "-map", "0:a?", "-c", "copy", *ffmpeg.OUTPUT_LIMITS]
            options = [*streams, "-f", "mpegts"] if _jumps(path, work) else None
        else:
            options = _parts(path, work).options(_RECORDINGS[kind]) if kind in _RECORDINGS else None
        return path if options is None else _copy(path, name, options, work, warn)
    except (AssetInvalid, EncodeFailed):
        return path  # whoever probes it says what is wrong


def _copy(path: Path, name: str, options: list[str], work: Work, warn: Callable[[str], object]) -> Path:
    made = work.directory / f"continuous-{name}"
    limits = replace(work.limits, max_output_bytes=_LARGER * path.stat().st_size + 1_000_000)
    quiet = replace(work, limits=limits, progress=lambda share: None)
    command = [*ffmpeg.INPUT_LIMITS, "-i", str(path), *options, made.name]
    ffmpeg.encode(command, quiet, length_s=ffmpeg.MAX_LENGTH_S, made=made)
    warn(f"{name}: its timestamps jump; its parts were joined")
    return made


def _jumps(path: Path, work: Work) -> bool:
    previous: dict[str, float] = {}
    found = False

    def on_packet(line: str) -> None:
        nonlocal found
        kind, stream, dts, *_ = f"{line},,".split(",")
        if kind not in {"video", "audio"} or (now := packets.number(dts)) is None:
            return
        found |= not -_BACK_S < now - previous.get(stream, now) < _AHEAD_S
        previous[stream] = now

    packets.each(path, ["codec_type", "stream_index", "dts_time"], on_packet, work)
    return found


@dataclass
class _Stream:
    """How far a stream has been read."""

    #: Its number of packets.
    packets: int = 0
    #: The latest decoding time, in seconds.
    now_s: float = 0.0
    #: Whether there was any.
    known: bool = False
    #: At which of its packets each part after the first begins.
    begins: list[int] = field(default_factory=list)


@dataclass
class _Parts:
    """The parts of a file. FFmpeg makes those of broadcasts continuous, and leaves others as they are."""

    #: The video and audio streams, by their number in the file.
    streams: dict[str, _Stream] = field(default_factory=dict)
    #: When each part begins and ends, in seconds.
    spans: list[tuple[float, float]] = field(default_factory=list)

    def add(self, number: str, now_s: float | None, length_s: float) -> None:
        """Count a packet of a stream, and note when it is decoded: Matroska leaves that open for some."""
        stream = self.streams.setdefault(number, _Stream())
        if now_s is not None:
            jumps = stream.known and not -_BACK_S < now_s - stream.now_s < _NEVER_AHEAD_S
            if jumps and len(stream.begins) < _MAX_PARTS:
                stream.begins.append(stream.packets)
            stream.now_s, stream.known = now_s, True
            part = len(stream.begins)
            self.spans += [(now_s, now_s)] * (part + 1 - len(self.spans))
            begin_s, end_s = self.spans[part]
            self.spans[part] = min(begin_s, now_s), max(end_s, now_s + length_s)
        stream.packets += 1

    @property
    def _jump(self) -> bool:
        """Whether all streams jump together. If only one does, its long still frame may be meant."""
        counts = {len(stream.begins) for stream in self.streams.values()}
        return len(counts) == 1 and 0 < counts.pop() < _MAX_PARTS

    def options(self, container: str) -> list[str] | None:
        """FFmpeg's options of a copy in which each part begins where the last one ends; None where none is needed."""
        if not self._jump:
            return None
        shifts = [last_end - begin for (_, last_end), (begin, _) in zip(self.spans, self.spans[1:], strict=False)]
        options = ["-dts_error_threshold", str(_ANY_TIME_S), "-c", "copy", "-copyinkf"]
        for i, (number, stream) in enumerate(self.streams.items()):
            moves = zip(shifts, stream.begins, strict=True)
            moved = "".join(f"+({shift:.6f})/TB*gte(N,{first})" for shift, first in moves)
            options += ["-map", f"0:{number}", f"-bsf:{i}", f"setts=ts='TS{moved}'"]
        return [*options, "-f", container]


def _parts(path: Path, work: Work) -> _Parts:
    found = _Parts()

    def on_packet(line: str) -> None:
        kind, stream, dts, length, *_ = f"{line},,,".split(",")
        if kind in {"video", "audio"}:
            found.add(stream, packets.number(dts), packets.number(length) or 0.0)

    packets.each(path, ["codec_type", "stream_index", "dts_time", "duration_time"], on_packet, work)
    return found
