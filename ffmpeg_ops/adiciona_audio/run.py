"""Adds the sound: determine the lengths, decide which streams can be copied, and run FFmpeg once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from ffmpeg_ops.adiciona_audio import video_options
from ffmpeg_ops.adiciona_audio.sound_graph import Sounds, graph
from ffmpeg_ops.adiciona_audio.sources import Sources
from ffmpeg_ops.engine import bitrate, ffmpeg, inspect, ladder, mp4, output, sizes
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.mixing import filters, measure
from ffmpeg_ops.engine.mixing.measure import UnsteadySound
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed, InvalidParams, OutputTooLarge

log = structlog.get_logger(__name__)

_SLACK_FRAMES = 1  # a cut may fall on either side of a frame
_HEADER_ERROR_S = 0.1  # maximum error of a length in a header
_COPY_SHORT_S = 0.015  # how much earlier than the output a copied sound may end
_SOUND_ERROR_S = 0.0205  # maximum error of the length of the sound: 20 ms, plus the rounding of headers


@dataclass(frozen=True)
class Plan:
    """One way to make the output."""

    #: The source files.
    sources: Sources
    #: Length of the output in seconds.
    length_s: float
    #: The filter graph that makes the sound, None where the new sound's packets are copied.
    graph: str | None

    def command(self, video: list[str], *, decoded: bool) -> list[str]:
        """FFmpeg's arguments, with `video` as the options of the video stream, which is `decoded` or only copied.

        A copied sound ends at the packet nearest to the end of the output.
        """
        sources = self.sources
        maps = ["-map", f"0:{sources.stream.index}"]
        if self.graph is None:
            end_s = self.length_s - filters.FRAME / sources.sound.sample_rate / 2
            inputs, sound = sources.inputs(end_s, decoded=decoded), ["-c:a", "copy"]
            maps += ["-map", f"1:{sources.sound.index}"]
        else:
            inputs, sound = sources.inputs(decoded=decoded), filters.AAC
            maps += ["-filter_complex", self.graph, "-map", "[sound]"]
        return [*inputs, *maps, *video, *sound, *output.MP4]

    def sound_bytes(self, work: Work) -> int:
        """How large the sound of the output is."""
        if self.graph is None:
            return bitrate.packet_bytes(self.sources.audio, self.sources.sound.index, work, self.length_s)
        return round(filters.AAC_RATE / 8 * self.length_s)

    def made_video(self, work: Work, encoded: ffmpeg.Encoded) -> mp4.Track:
        """The video track of the output. Raises UnsteadySound where the sound is not as long as planned."""
        tracks = output.tracks(work)
        heard = tracks.get("soun", mp4.Track(0, 0.0, 0.0))
        rate = filters.RATE if self.graph is not None else self.sources.sound.sample_rate
        for heard_s in (heard.packets_s, heard.packets * filters.FRAME / rate):
            if encoded.restarted or abs(heard_s - heard.skipped_s - self.length_s) > _SOUND_ERROR_S:
                raise UnsteadySound(f"{heard} is not {self.length_s} s long; FFmpeg restarted: {encoded.restarted}")
        return tracks["vide"]


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    sources = Sources.probe(assets["url_video"], assets["url_audio"], work, mixed=params["mode"] == "mix")
    try:
        if params["loop"]:
            sources = sources.repeat(work)
        return _make(work, params, sources)
    except UnsteadySound as error:
        log.warning("sound.predecode_needed", reason=str(error))
    max_s = ffmpeg.MAX_LENGTH_S if params["length"] == "audio" else sources.video_s
    try:
        return _make(work, params, sources.predecode(max_s, work))
    except UnsteadySound as error:
        raise EncodeFailed(
            "FFmpeg could not make the video: its sound has the wrong length.", detail=str(error)
        ) from error


def _make(work: Work, params: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """Copy or encode the video, with the sound. Raises UnsteadySound when the sound has the wrong length."""
    length_s, sound_end_s = _lengths(sources, params, work)
    copied = _copied_video(sources, length_s, params.get("encoding", {}), work)
    copies_sound = _can_copy_sound(sources, params, length_s, sound_end_s, work)
    plan = Plan(sources, length_s, None if copies_sound else _graph(sources, params, length_s, sound_end_s, work))
    encoding = Encoding.of(params)
    if copied is not None:
        try:
            return _copy(work, plan, copied, encoding.max_bytes)
        except _ChangesSize:
            log.info("video.size_changed")
            work = replace(work, progress=lambda share: None)  # it has reached its end, and never goes back
        except OutputTooLarge:
            if encoding.max_bytes is None:
                raise
    return _encode(work, plan, encoding)


def _lengths(sources: Sources, params: Mapping[str, Any], work: Work) -> tuple[float, float | None]:
    """The length of the output, and the time at which the new sound ends; None if it need not be measured."""
    start_s, wanted = params["start"], params["length"]
    length_s, sound_end_s = sources.video_s, None
    if not params["loop"] and (wanted != "video" or params["fade_out"]):
        sound_end_s = start_s + sources.sound_s(work)
        if wanted != "video":
            length_s = sound_end_s if wanted == "audio" else min(length_s, sound_end_s)
    if start_s >= length_s:
        raise InvalidParams(f"start: the video ends after {length_s:.2f} seconds.")
    return length_s, sound_end_s


@dataclass(frozen=True)
class Copied:
    """How the video is copied."""

    #: FFmpeg's options of the stream.
    options: list[str]
    #: How many packets that should give, None where it is unknown.
    packets: int | None
    #: How many of them are decoded only for others.
    hidden: int = 0


def _copied_video(sources: Sources, length_s: float, encoding: Mapping[str, Any], work: Work) -> Copied | None:
    """How the video is copied; None where it must be encoded."""
    stream = sources.stream
    if "quality" in encoding or encoding.get("codec", stream.codec) != stream.codec:
        return None
    shorter = sources.is_cut_by(length_s) or sources.hides_frames
    if sources.is_extended_by(length_s) or not video_options.copyable(sources.info, stream, shorter):
        return None
    if not shorter:
        return Copied(video_options.copy(stream), sources.header_frames)
    cut = video_options.cut(sources.packets_before(length_s, work), length_s, sources.slack_s)
    return Copied(video_options.copy(stream, cut), cut.packets, cut.hidden)


def _can_copy_sound(
    sources: Sources, params: Mapping[str, Any], length_s: float, sound_end_s: float | None, work: Work
) -> bool:
    stream, info = sources.sound, sources.audio_info
    if stream.codec != "aac" or stream.profile != "LC" or stream.channels > 2 or stream.sample_rate < 32000:
        return False
    if not {"mov", "aac"} & info.formats or abs(stream.start_s) > 0.001 or sources.original:
        return False
    if info.changes_description:
        return False
    if params["volume"] != 1 or params["loudness"] is not None:
        return False
    if any(params[name] for name in ("start", "loop", "fade_in", "fade_out")):
        return False
    if sound_end_s is None:
        in_mov = "mov" in info.formats  # ADTS has no header; FFmpeg guesses
        sound_end_s = stream.duration_s if in_mov else None
        if sound_end_s is None or abs(sound_end_s - length_s) < _HEADER_ERROR_S:
            # With a single track, the length of the movie excludes the encoder's delay; that of the track includes it.
            exact = in_mov and not info.video and info.duration_s and stream.duration_s
            sound_end_s = min(info.duration_s or 0, stream.duration_s or 0) if exact else sources.sound_s(work)
    return sound_end_s >= length_s - _COPY_SHORT_S


def _graph(sources: Sources, params: Mapping[str, Any], length_s: float, sound_end_s: float | None, work: Work) -> str:
    original, original_input = sources.original, 0
    if original is not None and sources.original_file is not None:
        original, original_input = replace(original, index=0), 2
    params = {**params, "loop": params["loop"] and not sources.repeated}
    sounds = Sounds(sources.sound, original, length_s, sound_end_s or length_s, original_input)
    if params["loudness"] is None:
        return graph(sounds, params)
    measured = measure.loudness_lufs(sources.inputs(), graph(sounds, params, measure.METER), work)
    return graph(sounds, params, filters.gain(measured, params["loudness"]))


class _ChangesSize(Exception):
    """A copied video changes its size midway, which can only be mended by encoding it."""


def _copy(work: Work, plan: Plan, copied: Copied, max_bytes: int | None) -> dict[str, Any]:
    """Copy the video. Raises _ChangesSize. With `max_bytes`, raises OutputTooLarge past it, and reports no progress."""
    sources = plan.sources
    trial = replace(ladder.limited(work, max_bytes), progress=lambda share: None) if max_bytes else work
    encoded = ffmpeg.encode(plan.command(copied.options, decoded=False), trial, length_s=plan.length_s)
    shown = plan.made_video(work, encoded)
    _require(shown.packets, copied.packets)
    if sizes.changes(work.output("video"), sources.stream.codec, work):
        raise _ChangesSize
    work.progress(1.0)
    decodable = sources.stream.width * sources.stream.height <= inspect.MAX_PICTURE
    if encoded.errors and decodable and not inspect.is_decodable(work.output("video"), work):
        raise output.damaged(0, shown.packets)
    stream = replace(sources.stream, frames=shown.packets - copied.hidden, duration_s=plan.length_s)
    errors = sources.errors + encoded.errors
    made = replace(sources.info, video=stream)
    return output.stats(work, output.COPY, made, warnings=sources.warnings, errors=errors)


def _encode(work: Work, plan: Plan, encoding: Encoding) -> dict[str, Any]:
    sources, length_s = plan.sources, plan.length_s
    stream, video_s = sources.stream, sources.video_s
    inspect.require_size(stream, "url_video")
    shorter = sources.is_cut_by(length_s)
    shown_s = length_s if shorter or sources.is_extended_by(length_s) else video_s
    expected = None  # where the whole video is shown, `require_frames` knows how many frames there should be
    if shorter:
        expected = sum(packet.shown_s < shown_s for packet in sources.packets_before(shown_s, work))
    made = ladder.encode(
        lambda encoder: plan.command(
            video_options.encode(encoder, sources.info, stream, video_s, shown_s), decoded=True
        ),
        work,
        encoding,
        length_s=length_s,
        pixels=stream.width * stream.height,
        megapixels=stream.megapixels(shown_s),
        sound_bytes=lambda: plan.sound_bytes(work),
    )
    shown = plan.made_video(work, made.encoded)
    if shown.packets_s > shown_s / inspect.MIN_COMPLETE + 2 * sources.frame_s:
        raise EncodeFailed(detail=f"{shown} is not {shown_s} s long")
    _require(made.encoded.frames, expected)
    if expected is None:
        held = round((shown_s - video_s) * stream.frame_rate)  # copies of the last frame
        output.require_frames(made.encoded.frames - held, sources.video, stream, video_s, work)
    errors = sources.errors + made.encoded.errors
    return output.stats(work, made.stats, warnings=[*sources.warnings, *made.warnings], errors=errors)


def _require(frames: int, expected: int | None) -> None:
    """Raise AssetInvalid when less than `inspect.MIN_COMPLETE` of the expected frames were written."""
    if expected is not None and frames + _SLACK_FRAMES < inspect.MIN_COMPLETE * expected:
        raise output.damaged(frames, expected)
