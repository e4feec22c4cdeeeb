"""The sound as one filter graph: both inputs at 48 kHz in stereo, fitted to a number of samples, mixed, limited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ffmpeg_ops.engine.inspect import AudioStream

RATE = 48000
FRAME = 1024  # samples in a packet of AAC
AAC_RATE = 192_000  # bits a second
# At this bit rate `fast` is the better coder and the quicker one: 19 to 21 dB of noise distance against 14 to 18 for
# the default in the middle bands of music, 28 to 44 against 25 to 35 in speech, in two thirds of the time.
AAC = ["-c:a", "aac", "-b:a", str(AAC_RATE), "-aac_coder", "fast"]

_LIMITER = "alimiter=limit=0.89:attack=5:release=80:level=0:latency=1"
# Between samples peaks are higher than on them, and AAC adds a little: hence the oversampling and the room of 1.5 dB.
_TRUE_PEAK_LIMITER = f"aresample={4 * RATE},alimiter=limit=0.84:attack=5:release=80:level=0:latency=1,aresample={RATE}"
_DUCKING = "sidechaincompress=threshold=0.02:ratio=6:attack=15:release=350"
_ENDLESS = 2**31 - 1
_DELAY_S = 0.06


@dataclass(frozen=True)
class Sounds:
    """What goes into the graph.

    `new.start_s` counts from the start of its file, `original` is None where the video's own sound is not heard,
    `new_end_s` is when the new sound ends in the output. `original_input` is the input of FFmpeg that it is read from.
    """

    new: AudioStream
    original: AudioStream | None
    length_s: float
    new_end_s: float
    original_input: int = 0


def samples(length_s: float) -> int:
    """How many samples fill `length_s`; a packet of AAC of which less than 2 ms would be heard is left out.

    Decoders may play the last packet to its end: without it the sound is never more than 20 ms too long.
    """
    exact = round(length_s * RATE)
    return exact - exact % FRAME if 0 < exact % FRAME < 96 < exact - exact % FRAME else exact


def graph(sounds: Sounds, params: Mapping[str, Any], finish: str = "") -> str:
    """The filter graph from the inputs to the label `[sound]`. `finish` comes last: a gain, or a meter."""
    fit = _fit(samples(sounds.length_s))
    new = ",".join([from_its_start(sounds.new), *_shaped(sounds, params), fit])
    if sounds.original is None:
        parts = [f"[1:{sounds.new.index}]{new}"]
        loud = params["volume"] > 1 or sounds.new.channels > 2
    else:
        original = f"{on_time(sounds.original)},volume={params['original_volume']:.6f},{fit}"
        parts = [
            f"[1:{sounds.new.index}]{new}[new]",
            f"[{sounds.original_input}:{sounds.original.index}]{original}[original]",
            *_ducked(params["ducking"], samples(sounds.length_s)),
            "[original][new]amix=inputs=2:duration=first:normalize=0",
        ]
        loud = True
    ending = [_LIMITER] if loud and not finish else []
    ending += [finish] if finish else []
    return ";".join(parts) + "".join(f",{part}" for part in ending) + (f",{fit}" if ending else "") + "[sound]"


def as_it_comes(stream: AudioStream) -> str:
    """Filters that make what `on_time` makes, one sample after the other, whatever the times are."""
    return f"aresample={RATE},aformat=sample_fmts=flt,{_stereo(stream)}"


def from_its_start(stream: AudioStream) -> str:
    """Filters that begin with the first sample, whatever time the container gives it: often the encoder's delay.

    A sound that really begins later than its file, in a video, is preceded by silence.
    """
    return on_time(stream) if stream.start_s > _DELAY_S else f"asetpts=PTS-STARTPTS,{on_time(stream)}"


def on_time(stream: AudioStream) -> str:
    """Filters that make stereo of 48 kHz of any stream and keep its times.

    What lies before the picture is cut, what begins later is preceded by silence.
    """
    return f"aresample={RATE}:async=1:first_pts=0,aformat=sample_fmts=fltp,{_stereo(stream)}"


def _stereo(stream: AudioStream) -> str:
    return "pan=stereo|c0=c0|c1=c0" if stream.channels == 1 else "aformat=channel_layouts=stereo"  # aformat: −3 dB


def gain(measured_lufs: float, target_lufs: float) -> str:
    """Filters that bring a sound of a measured loudness to its target; peaks that get too high are held down."""
    return f"volume={target_lufs - measured_lufs:.2f}dB,{_TRUE_PEAK_LIMITER}"


def _shaped(sounds: Sounds, params: Mapping[str, Any]) -> list[str]:
    start = round(params["start"] * RATE)
    length_s = sounds.length_s - start / RATE
    heard_s = min(length_s, sounds.new_end_s - start / RATE)
    filters = [f"atrim=end={length_s:.6f}"]
    if params["loop"]:
        filters += [f"aloop=loop=-1:size={_ENDLESS}", f"atrim=end={length_s:.6f}"]
    if params["volume"] != 1:
        filters.append(f"volume={params['volume']:.6f}")
    if fade := min(params["fade_in"], heard_s):
        filters.append(f"afade=type=in:duration={fade:.6f}")
    if fade := min(params["fade_out"], heard_s):
        filters.append(f"afade=type=out:start_time={heard_s - fade:.6f}:duration={fade:.6f}")
    return [*filters, f"adelay={start}S:all=1"] if start else filters


def _ducked(quieter: str, count: int) -> list[str]:
    if quieter == "none":
        return []
    louder = "original" if quieter == "new" else "new"
    # FFmpeg 7 drops what this filter still holds of one input when the other ends: here none does before the cut
    endless = [f"[{louder}]asplit[{louder}][key]", "[key]apad[key]", f"[{quieter}]apad[{quieter}]"]
    return [*endless, f"[{quieter}][key]{_DUCKING},atrim=end_sample={count}[{quieter}]"]


def _fit(count: int) -> str:
    return f"apad=whole_len={count},atrim=end_sample={count}"
