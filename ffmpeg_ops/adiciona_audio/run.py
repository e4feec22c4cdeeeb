"""How sound is put on a video: decide how long everything is, copy what can be copied, run FFmpeg once."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ffmpeg_ops.adiciona_audio import measure, video_track
from ffmpeg_ops.adiciona_audio.measure import Unsteady
from ffmpeg_ops.engine import bitrate, encoders, ffmpeg, inspect, mp4, output
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.mixing import predecode, sound
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed, InvalidParams, OutputTooLarge

log = structlog.get_logger(__name__)
T = TypeVar("T")

_SLACK = 1  # frames: a cut may fall on either side of one
_CLEAR_S = 0.1  # a header's word on a length is good to this
_COPY_SHORT_S = 0.015  # how much a copied sound may end too early
_SOUND_OFF_S = 0.0205  # how much the sound may be too long or too short: 20 ms, and what headers round
_RESTARTED = frozenset({"mpegts", "mpeg", "ogg"})  # since FFmpeg 6 these begin with the first stream that is used


@dataclass(frozen=True)
class Sources:
    """Both files, as ffprobe found them. `sound` starts as late as told after its file, `video_s` lasts the picture.

    `original` is the video's own sound, None where it is not heard. Where the sounds had to be made predecoded first,
    `audio` and `original_file` are those files, and `errors` were met.
    """

    video: Path
    info: inspect.MediaInfo
    stream: inspect.VideoStream
    audio: Path
    audio_info: inspect.MediaInfo
    sound: inspect.AudioStream
    original: inspect.AudioStream | None
    video_s: float
    predecoded: bool = False
    original_file: Path | None = None
    errors: int = 0

    @property
    def frame_s(self) -> float:
        return float(1 / self.stream.frame_rate) if self.stream.frame_rate else 0.04

    def inputs(self, sound_end_s: float | None = None, *, decoded: bool = False) -> list[str]:
        """Both inputs, the picture as it is to be `decoded`; of the sound's packets those before `sound_end_s`.

        The output begins with the picture, whatever else the video file begins with.
        """
        heard_s = [self.original.start_s] if self.original and not self.original_file else []
        shift = _shifted(_zero_s(self.info, [self.stream.start_s, *heard_s]) - self.stream.start_s)
        limits = ffmpeg.DECODE_LIMITS if decoded else ffmpeg.INPUT_LIMITS
        video = [*shift, *video_track.times(self.info, self.stream), *limits, "-i", str(self.video)]
        upto = [] if sound_end_s is None else ["-t", f"{sound_end_s:.6f}"]
        new = [*_shifted(self._sound_shift_s), *upto, *ffmpeg.INPUT_LIMITS, "-i", str(self.audio)]
        if self.original is None or self.original_file is None:
            return [*video, *new]
        shift = _shifted(self.original.start_s - self.stream.start_s)
        return [*video, *new, *shift, *ffmpeg.INPUT_LIMITS, "-i", str(self.original_file)]

    @property
    def _sound_shift_s(self) -> float:
        if self.predecoded:
            return self.sound.start_s
        file_s = self.audio_info.start_s
        return _zero_s(self.audio_info, [file_s + self.sound.start_s]) - file_s


@dataclass(frozen=True)
class Picture:
    """FFmpeg's options that copy the picture, and how many packets there should be, if known."""

    options: list[str]
    frames: int | None = None


def _zero_s(info: inspect.MediaInfo, used_s: Sequence[float]) -> float:
    """The time in a file from which FFmpeg counts. `used_s`: when the streams that it is to use begin."""
    if _RESTARTED & set(info.format.split(",")) and ffmpeg.is_from(6):
        return min(used_s)
    return info.start_s


def _shifted(by_s: float) -> list[str]:
    return ["-itsoffset", f"{by_s:.6f}"] if abs(by_s) > 1e-6 else []


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    sources = _sources(work, assets["url_video"], assets["url_audio"], mixed=params["mode"] == "mix")
    try:
        return _make(work, params, sources)
    except Unsteady as error:
        log.warning("adiciona_audio.unsteady", reason=str(error))
    try:
        return _make(work, params, _steadied(work, params, sources))
    except Unsteady as error:
        raise EncodeFailed(
            "FFmpeg could not make the video: its sound got a wrong length.", detail=str(error)
        ) from error


def _make(work: Work, params: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """One try. Raises measure.Unsteady where the sound did not come out as it should."""
    length_s, sound_end_s = _lengths(sources, params, work)
    copied = _copied_picture(sources, length_s, params.get("encoding", {}), work)
    copies_sound = _sound_can_be_copied(sources, params, length_s, sound_end_s, work)
    graph = "" if copies_sound else _graph(sources, params, length_s, sound_end_s, work)

    def command(options: list[str], decoded: bool) -> list[str]:
        if copies_sound:
            return copied_sound(sources, options, length_s, decoded)
        return encoded_sound(sources, options, graph, decoded)

    def sound_bytes() -> int:
        if copies_sound:
            return bitrate.packet_bytes(sources.audio, sources.sound.index, work, length_s)
        return round(sound.AAC_RATE / 8 * length_s)

    def check(encoded: ffmpeg.Encoded) -> dict[str, mp4.Track]:
        return _checked(work, encoded, length_s, sources.sound.sample_rate if copies_sound else sound.RATE)

    asked = Encoding.of(params)
    if copied is not None:
        try:
            return _copy(work, sources, length_s, copied, command(copied.options, False), asked.max_bytes, check)
        except OutputTooLarge:
            if asked.max_bytes is None:
                raise
    return _encode(work, sources, length_s, lambda options: command(options, True), asked, sound_bytes, check)


def copied_sound(sources: Sources, shown: list[str], length_s: float, decoded: bool) -> list[str]:
    """FFmpeg's arguments where the packets of the new sound are copied up to the end, give or take half a packet."""
    end_s = length_s - sound.FRAME / sources.sound.sample_rate / 2
    maps = ["-map", f"0:{sources.stream.index}", "-map", f"1:{sources.sound.index}"]
    return [*sources.inputs(end_s, decoded=decoded), *maps, *shown, "-c:a", "copy", *output.MP4]


def encoded_sound(sources: Sources, shown: list[str], graph: str, decoded: bool) -> list[str]:
    """FFmpeg's arguments where a filter graph makes the sound."""
    maps = ["-map", f"0:{sources.stream.index}", "-filter_complex", graph, "-map", "[sound]"]
    return [*sources.inputs(decoded=decoded), *maps, *shown, *sound.AAC, *output.MP4]


def _sources(work: Work, video: Path, audio: Path, *, mixed: bool) -> Sources:
    with ThreadPoolExecutor(2) as pool:  # a start of ffprobe costs as much as all the copying
        first = _submit(pool, lambda: inspect.video_asset(video, "url_video", work))
        second = _submit(pool, lambda: inspect.audio_asset(audio, "url_audio", work))
        (info, stream), (audio_info, track) = first(), second()
    track = replace(track, start_s=track.start_s - audio_info.start_s)
    original = info.audio if mixed else None
    return Sources(video, info, stream, audio, audio_info, track, original, output.length_s(info, stream))


def _steadied(work: Work, params: Mapping[str, Any], sources: Sources) -> Sources:
    """The sources with their sounds decoded first, the original one where it is heard."""
    most_s = ffmpeg.MAX_LENGTH_S if params["length"] == "audio" else sources.video_s
    audio, errors = predecode.decoded(sources.audio, sources.sound, "new.w64", most_s, work)
    original = None
    if (track := sources.original) is not None:
        earlier_s = max(0.0, sources.stream.start_s - track.start_s)
        original, more = predecode.decoded(sources.video, track, "original.w64", sources.video_s + earlier_s, work)
        errors += more
    track = replace(sources.sound, index=0, codec="pcm_f32le")
    return replace(sources, audio=audio, sound=track, predecoded=True, original_file=original, errors=errors)


def _submit(pool: ThreadPoolExecutor, task: Callable[[], T]) -> Callable[[], T]:
    return pool.submit(contextvars.copy_context().run, task).result


def _lengths(sources: Sources, params: Mapping[str, Any], work: Work) -> tuple[float, float | None]:
    """How long the output is, and when the new sound ends in it: None where that is not known to the sample."""
    start_s: float = params["start"]
    if params["loop"]:
        end_s: float | None = None
    elif params["length"] != "video" or params["fade_out"]:
        end_s = start_s + _sound_s(sources, work)
    else:
        end_s = None
    length_s = sources.video_s
    if params["length"] == "audio" and end_s is not None:
        length_s = end_s
    elif params["length"] == "shortest" and end_s is not None:
        length_s = min(length_s, end_s)
    if start_s >= length_s:
        raise InvalidParams(f"start: the video ends after {length_s:.2f} seconds.")
    return length_s, end_s


def _sound_s(sources: Sources, work: Work) -> float:
    """How long the new sound is. Raises Unsteady for damaged ADTS, of which not even all packets can be copied."""
    seconds, whole = measure.sound_s(sources.audio, sources.sound, work)
    if not whole and sources.audio_info.format == "aac" and not sources.predecoded:
        raise Unsteady("damaged ADTS")
    return seconds


def _longer(sources: Sources, length_s: float) -> bool:
    return length_s > sources.video_s + sources.frame_s / 2


def _shorter(sources: Sources, length_s: float) -> bool:
    return length_s < sources.video_s - sources.frame_s / 2


def _copied_picture(sources: Sources, length_s: float, asked: Mapping[str, Any], work: Work) -> Picture | None:
    """How the picture is copied; None where it cannot be, or where `asked` says what only a new encode gives."""
    shorter = _shorter(sources, length_s)
    if "quality" in asked or asked.get("codec", sources.stream.codec) != sources.stream.codec:
        return None
    if _longer(sources, length_s) or not video_track.copyable(sources.info, sources.stream, shorter):
        return None
    if not shorter:
        return Picture(video_track.copy(sources.stream), _told(sources))
    packets = _packets_up_to(length_s, sources, work)
    upto = video_track.cut(packets, length_s - sources.frame_s / 2)
    return Picture(video_track.copy(sources.stream, upto), upto.packets if upto else None)


def _checked(work: Work, encoded: ffmpeg.Encoded, length_s: float, sample_rate: int) -> dict[str, mp4.Track]:
    """The tracks of the output. Raises Unsteady where its sound, by times or by packets, is not `length_s` long."""
    tracks = output.tracks(work)
    heard = tracks.get("soun", mp4.Track(0, 0.0, 0.0))
    for told_s in (heard.packets_s, heard.packets * sound.FRAME / sample_rate):
        if encoded.restarted or abs(told_s - heard.skipped_s - length_s) > _SOUND_OFF_S:
            raise Unsteady(f"{heard} is not {length_s} s long; FFmpeg began anew: {encoded.restarted}")
    return tracks


def _copy(
    work: Work,
    sources: Sources,
    length_s: float,
    copied: Picture,
    arguments: list[str],
    max_bytes: int | None,
    check: Callable[[ffmpeg.Encoded], dict[str, mp4.Track]],
) -> dict[str, Any]:
    """Copies the picture. Raises OutputTooLarge also when that takes more than `max_bytes`; nobody sees it try."""
    trial = replace(encoders.limited(work, max_bytes), progress=lambda share: None) if max_bytes else work
    encoded = ffmpeg.encode(arguments, trial, length_s=length_s)
    work.progress(1.0)
    shown = check(encoded)["vide"]
    _require(shown.packets, copied.frames)
    decodable = sources.stream.width * sources.stream.height <= inspect.MAX_PICTURE
    if encoded.errors and decodable and not inspect.shows(work.output("video"), work):
        raise output.damaged(0, shown.packets)
    stream = replace(sources.stream, frames=shown.packets, duration_s=length_s)
    stats = output.stats(work, "copy", "cpu", replace(sources.info, video=stream))
    return {**stats, **_told_of((), sources.errors + encoded.errors)}


def _encode(
    work: Work,
    sources: Sources,
    length_s: float,
    command: Callable[[list[str]], list[str]],
    asked: Encoding,
    sound_bytes: Callable[[], int],
    check: Callable[[ffmpeg.Encoded], dict[str, mp4.Track]],
) -> dict[str, Any]:
    inspect.require_size(sources.stream, "url_video")
    shorter = _shorter(sources, length_s)
    shown_s = length_s if _longer(sources, length_s) or shorter else sources.video_s
    wanted = None  # where all of the video is there, its own figures say how many frames that is
    if shorter:
        wanted = sum(packet.shown_s < shown_s for packet in _packets_up_to(shown_s, sources, work))
    made = encoders.encode(
        lambda encoder: command(video_track.encode(encoder, sources.info, sources.stream, sources.video_s, shown_s)),
        work,
        asked,
        length_s=length_s,
        sound_bytes=sound_bytes,
    )
    shown = check(made.encoded)["vide"]
    if shown.packets_s > shown_s / inspect.ENOUGH + 2 * sources.frame_s:
        raise EncodeFailed(detail=f"{shown} is not {shown_s} s long")
    _require(made.encoded.frames, wanted)
    if wanted is None:
        read = made.encoded.frames - round((shown_s - sources.video_s) * sources.stream.frame_rate)  # the last stands
        output.require_frames(read, sources.video, sources.stream, sources.video_s, work)
    stats = output.stats(work, made.encoder.name, made.encoder.device)
    return {**stats, **_told_of(made.warnings, sources.errors + made.encoded.errors)}


def _require(frames: int, wanted: int | None) -> None:
    """Raises AssetInvalid when less than `probe.ENOUGH` of the frames that should be there came out."""
    if wanted is not None and frames + _SLACK < inspect.ENOUGH * wanted:
        raise output.damaged(frames, wanted)


def _told_of(warnings: Sequence[str], errors: int) -> dict[str, Any]:
    """What was not as it should be, as a part of the result's stats."""
    told = [*warnings, *output.warnings(errors)]
    return {"warnings": told} if told else {}


def _told(sources: Sources) -> int | None:
    """How many pictures the header counts; AVI counts empty packets as well."""
    return sources.stream.frames if "mov" in sources.info.format.split(",") else None


def _packets_up_to(length_s: float, sources: Sources, work: Work) -> list[video_track.Packet]:
    """The picture's packets. Raises AssetInvalid where the file is cut off before `length_s`."""
    packets = measure.packets(sources.video, sources.stream, work)
    told, there_s = _told(sources), max((packet.shown_s for packet in packets), default=0.0) + sources.frame_s
    if told and len(packets) < inspect.ENOUGH * told and there_s < inspect.ENOUGH * length_s:
        raise output.damaged(len(packets), told)
    return packets


def _sound_can_be_copied(
    sources: Sources, params: Mapping[str, Any], length_s: float, sound_end_s: float | None, work: Work
) -> bool:
    stream, formats = sources.sound, sources.audio_info.format.split(",")
    if stream.codec != "aac" or stream.profile != "LC" or stream.channels > 2 or stream.sample_rate < 32000:
        return False
    if not {"mov", "aac"} & set(formats) or abs(stream.start_s) > 0.001:
        return False
    if sources.original or params["volume"] != 1 or params["start"] or params["loop"]:
        return False
    if params["fade_in"] or params["fade_out"] or params["loudness"] is not None:
        return False
    if sound_end_s is None:
        sound_end_s = _roughly_s(sources.audio_info, stream)
        if sound_end_s is None or abs(sound_end_s - length_s) < _CLEAR_S:
            sound_end_s = _told_s(sources.audio_info, stream) or _sound_s(sources, work)
    return sound_end_s >= length_s - _COPY_SHORT_S


def _roughly_s(info: inspect.MediaInfo, stream: inspect.AudioStream) -> float | None:
    return stream.duration_s if "mov" in info.format.split(",") else None  # ADTS has no header; FFmpeg guesses


def _told_s(info: inspect.MediaInfo, stream: inspect.AudioStream) -> float | None:
    """The length of the movie's only track: unlike the track's own it leaves out what the encoder put in front."""
    if "mov" not in info.format.split(",") or info.video or not info.duration_s or not stream.duration_s:
        return None
    return min(info.duration_s, stream.duration_s)


def _graph(sources: Sources, params: Mapping[str, Any], length_s: float, sound_end_s: float | None, work: Work) -> str:
    original, original_input = sources.original, 0
    if original is not None and sources.original_file is not None:
        original, original_input = replace(original, index=0), 2
    new_end_s = length_s if sound_end_s is None else sound_end_s
    sounds = sound.Sounds(sources.sound, original, length_s, new_end_s, original_input)
    target: float | None = params["loudness"]
    if target is None:
        return sound.graph(sounds, params)
    measured = measure.loudness_lufs(sources.inputs(), sound.graph(sounds, params, measure.METER), work)
    return sound.graph(sounds, params, sound.gain(max(measured, measure.SILENCE_LUFS), target))
