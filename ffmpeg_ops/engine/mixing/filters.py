"""FFmpeg's audio filters for mixing. All sounds are 48 kHz stereo; lengths are exact to the sample."""

from __future__ import annotations

from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.timeline import rates

RATE = rates.SAMPLE_RATE
FRAME = 1024  # samples in a packet of AAC
AAC_RATE = 192_000  # bits a second
# At this bit rate `fast` is both better and faster than the default coder: a noise distance of 19 to 21 dB against 14
# to 18 in the middle bands of music, 28 to 44 against 25 to 35 in speech, in two thirds of the time.
AAC = ["-c:a", "aac", "-b:a", str(AAC_RATE), "-aac_coder", "fast"]

LIMITER = "alimiter=limit=0.89:attack=5:release=80:level=0:latency=1"
# Peaks between samples are higher than the samples, hence the oversampling. AAC adds up to 1 dB to noise, hence the
# 2 dB of headroom.
TRUE_PEAK_LIMITER = f"aresample={4 * RATE},alimiter=limit=0.79:attack=5:release=80:level=0:latency=1,aresample={RATE}"
FIRST_TWO = "pan=stereo|c0=c0|c1=c1"
_DUCKING = "sidechaincompress=threshold=0.02:ratio=6:attack=15:release=350"
_ENDLESS = 2**31 - 1
_ENCODER_DELAY_S = 0.06
_INEXACT_S = 0.1  # how much later than its header says a stream may begin


def samples(length_s: float) -> int:
    """The number of samples in `length_s`, without a last AAC packet of which less than 2 ms would be heard.

    Decoders may play the last packet to its end, so keeping it could make the sound 20 ms too long.
    """
    exact = round(length_s * RATE)
    return exact - exact % FRAME if 0 < exact % FRAME < 96 < exact - exact % FRAME else exact


def fit(count: int) -> str:
    """Cut a sound, or extend it with silence, to `count` samples."""
    return f"apad=whole_len={count},atrim=end_sample={count}"


def without_timestamps(stream: AudioStream) -> str:
    """Like `on_time`, but join all samples without gaps, ignoring the timestamps."""
    return f"aresample={RATE},aformat=sample_fmts=flt,{_stereo(stream)}"


def from_its_start(stream: AudioStream) -> str:
    """Begin with the first sample, ignoring its timestamp, which is often the encoder's delay.

    A sound that really begins later than its file, in a video, is preceded by silence.
    """
    return on_time(stream) if stream.start_s > _ENCODER_DELAY_S else f"asetpts=PTS-STARTPTS,{on_time(stream)}"


def from_timestamp(stream: AudioStream, origin_s: float) -> str:
    """Begin where the file's timestamps are `origin_s`. The input needs `-copyts`, and may have been sought in.

    A stream that changes its sample rate or channels midway restarts the filters. What they get then follows at once.
    """
    restarted = f"gt(STARTPTS*TB,{max(origin_s, stream.start_s) + _INEXACT_S:.6f})"
    return f"asetpts='PTS-if({restarted},STARTPTS,{origin_s:.6f}/TB)',{on_time(stream)}"


def on_time(stream: AudioStream) -> str:
    """Convert any stream to 48 kHz stereo and keep its timestamps.

    What lies before time 0 is cut; a sound that begins later is preceded by silence.
    """
    return f"aresample={RATE}:async=1:first_pts=0,aformat=sample_fmts=fltp,{_stereo(stream)}"


def _stereo(stream: AudioStream) -> str:
    if not stream.is_mixable:
        return FIRST_TWO
    return "pan=stereo|c0=c0|c1=c0" if stream.channels == 1 else "aformat=channel_layouts=stereo"  # aformat: −3 dB


def loop(length_s: float) -> str:
    """Repeat a sound without a gap until `length_s`."""
    return f"aloop=loop=-1:size={_ENDLESS},atrim=end={length_s:.6f}"


def duck(quieter: str, louder: str, count: int) -> list[str]:
    """Graph parts that lower the sound labelled `quieter` while `louder` is heard, for `count` samples."""
    # FFmpeg 7 drops buffered samples of one input when the other ends, so both are made endless and cut afterwards
    endless = [f"[{louder}]asplit[{louder}][key]", "[key]apad[key]", f"[{quieter}]apad[{quieter}]"]
    return [*endless, f"[{quieter}][key]{_DUCKING},atrim=end_sample={count}[{quieter}]"]


def gain(measured_lufs: float, target_lufs: float) -> str:
    """Bring a sound of a measured loudness to its target and limit its true peaks."""
    return f"volume={target_lufs - measured_lufs:.2f}dB,{TRUE_PEAK_LIMITER}"
