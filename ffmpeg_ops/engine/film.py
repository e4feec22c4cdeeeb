"""Encodes a film whose frames are made here, one after another, with at most one finished sound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ffmpeg_ops.engine import ffmpeg, ladder, output
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.engine.encoding import Encoding
from ffmpeg_ops.engine.mixing import filters
from ffmpeg_ops.engine.subtitles import captions
from ffmpeg_ops.operation import Work

_BT709 = ["-color_range", "tv", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]


@dataclass(frozen=True)
class Film:
    """What is encoded."""

    #: Width and height in pixels, both even.
    size: tuple[int, int]
    #: Frames a second.
    rate: Fraction
    #: How many frames there are.
    frames: int
    #: A file with exactly as much sound, made by `mixing.mixer`; None for a film without sound.
    sound: Path | None = None
    #: Whether the captions of `subtitles.captions.SCRIPT` are drawn over all frames.
    captioned: bool = False
    #: Over how many frames the picture, with what is drawn over it, goes to black at the end.
    fade_out: int = 0

    @property
    def length_s(self) -> float:
        """Its length in seconds."""
        return float(self.frames / self.rate)


def command(film: Film, encoder: Encoder) -> list[str]:
    """FFmpeg's arguments that encode raw frames, BT.709 in limited range and left-sited, from standard input."""
    size = f"{film.size[0]}x{film.size[1]}"
    drawn = [captions.FILTER] if film.captioned else []
    if film.fade_out:
        drawn.append(f"fade=out:start_frame={film.frames - film.fade_out}:nb_frames={film.fade_out}")
    return [  # without -frames:v, which would end the sound as well
        *["-protocol_whitelist", "pipe", "-format_whitelist", "rawvideo", "-max_pixels", str(ffmpeg.MAX_DECODED)],
        *["-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", size, "-framerate", str(film.rate)],
        *[*_BT709, "-chroma_sample_location", "left", "-i", "pipe:0", *_sound_input(film)],
        *(["-vf", ",".join(drawn)] if drawn else []),
        *[*encoder.arguments, *_BT709, "-chroma_sample_location", "left", *_sound_output(film), *output.MP4],
    ]


def encode(film: Film, work: Work, encoding: Encoding, frames: Callable[[], Iterable[bytes]]) -> ladder.Made:
    """Encode the output `video`. `frames` makes all raw frames anew for every try. Raises like `ladder.encode`."""
    made = ladder.encode(
        lambda encoder: command(film, encoder),
        work,
        encoding,
        length_s=film.length_s,
        pixels=film.size[0] * film.size[1],
        megapixels=film.size[0] * film.size[1] * film.frames / 1e6,
        sound_bytes=lambda: round(filters.AAC_RATE / 8 * film.length_s) if film.sound else 0,
        feed=frames,
    )
    output.require_written(film.frames, work)
    return made


def _sound_input(film: Film) -> list[str]:
    return [*ffmpeg.INPUT_LIMITS, "-i", film.sound.name] if film.sound else []


def _sound_output(film: Film) -> list[str]:
    return ["-map", "0:v", "-map", "1:a", *filters.AAC] if film.sound else ["-an"]
