"""Finds out which encoders work on this machine, and with which options.

Only an encode shows whether an encoder works: FFmpeg lists h264_nvenc on machines without a GPU.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

import structlog

from ffmpeg_ops.engine import ffmpeg, gpu, process
from ffmpeg_ops.engine.encoder_errors import Blame, Failure, understood
from ffmpeg_ops.engine.encoders import LADDERS, Encoder
from wire.errors import EncodeFailed, EncoderUnavailable, JobTimeout, WorkerError

log = structlog.get_logger(__name__)

_TIMEOUT_S = 20
# A probe that failed is repeated after this, then after twice as long, and so on.
_REPEAT_S, _REPEAT_AT_MOST_S = 60.0, 3600.0


class NoEncoder(EncoderUnavailable):
    """Not even H.264 can be encoded on this machine, or not by the GPU that is required: the machine is at fault."""


@dataclass(frozen=True)
class Probed:
    """What a probe found."""

    #: The encoder with the options that work here.
    encoder: Encoder
    #: Why it does not work; None if it does.
    failure: Failure | None = None
    #: When the encoder is probed again, by the monotonic clock.
    until: float = float("inf")
    #: Seconds from a failed probe to that.
    pause_s: float = 0.0


_lock = threading.Lock()
_probed: dict[str, Probed] = {}  # by name of the encoder


def ask(encoder: Encoder) -> Probed:
    """Whether and how the encoder works: probed once, and a failure that may pass again after a while."""
    with _lock:
        known = _probed.get(encoder.name)
        if known is None or time.monotonic() >= known.until:
            known = _probed[encoder.name] = _probe(encoder, known.pause_s if known else 0.0)
            reason = known.failure.reason if known.failure else None
            say = log.warning if reason and encoder.device == "gpu" and gpu.expected() else log.info
            say("encoder.probed", encoder=encoder.name, device=encoder.device, works=not reason, reason=reason)
        return known


def forget(encoder: Encoder) -> None:
    """Make the next job probe this encoder again."""
    with _lock:
        _probed.pop(encoder.name, None)


def best(codec: str = "h264") -> Encoder:
    """The first encoder of the codec that works on this machine. Raises EncoderUnavailable when none does."""
    for rung in LADDERS[codec]:
        probed = ask(rung)
        if probed.failure is None:
            return probed.encoder
    raise no_encoder(codec)


def no_encoder(codec: str) -> EncoderUnavailable:
    """The error for a codec whose encoders all fail here."""
    return (NoEncoder if codec == "h264" else EncoderUnavailable)(f"The worker has no working encoder for {codec}.")


def works(encoder: Encoder) -> Encoder | Failure:
    """The encoder with the options of a real job that work for a few small frames, or why none do.

    A GPU that works only in the reduced sandbox is used there, because it is paid for; it is tried in the whole one
    before and after, so that no passing failure leads there. Other commands stay in the whole one.
    """
    found = _fitted(encoder)
    if isinstance(found, Encoder) or found.blame is not Blame.HOST or encoder.device != "gpu" or not gpu.present():
        return found
    reduced = _fitted(replace(encoder, reduced=f"{encoder.name} does not work in the whole one: {found.reason}"))
    if not isinstance(reduced, Encoder):
        return found
    again = _fitted(encoder)
    return again if isinstance(again, Encoder) else reduced


def _probe(encoder: Encoder, last_pause_s: float) -> Probed:
    may_pass = encoder.device == "gpu" and gpu.expected()
    try:
        found = works(encoder)
    except (JobTimeout, WorkerError) as error:
        log.warning("encoder.probe_failed", encoder=encoder.name, reason=error.detail or error.message)
        hung = isinstance(error, JobTimeout)
        found, may_pass = Failure(f"it {'hung' if hung else 'crashed'} when it was tried"), True
    except EncodeFailed as error:  # FFmpeg could not even report its version
        found = understood(error.detail)
    if isinstance(found, Encoder):
        return Probed(found, until=time.monotonic() + _REPEAT_AT_MOST_S if found.reduced else float("inf"))
    if found.blame is Blame.LOAD:  # it counts as working, but only another probe shows with which options
        return Probed(_supported(encoder), until=0.0)
    may_pass = may_pass and found.blame is Blame.HOST
    pause_s = min(max(_REPEAT_S, 2 * last_pause_s), _REPEAT_AT_MOST_S)
    return Probed(encoder, found, time.monotonic() + pause_s if may_pass else float("inf"), pause_s)


def _fitted(encoder: Encoder) -> Encoder | Failure:
    """Drop the options that the chip lacks, one after the other, until an encode succeeds."""
    encoder = _supported(encoder)
    while True:
        printed = _fails(encoder)
        if printed is None:
            return encoder
        lacking = encoder.lacking(printed)
        if not lacking:
            failure = understood(printed)
            log.info("encoder.rejected", encoder=encoder.name, reason=failure.reason, detail=printed)
            return failure
        encoder = encoder.without(*lacking)


def _supported(encoder: Encoder) -> Encoder:
    """The encoder without the features that do not work in this release of FFmpeg."""
    return encoder.without(*(feature for feature in encoder.features if not ffmpeg.is_from(feature.since)))


def _fails(encoder: Encoder) -> str | None:
    """What FFmpeg prints for an encode that fails; None for one that succeeds."""
    source = ["-f", "lavfi", "-i", "color=size=256x256:rate=25:duration=0.2"]
    # Why a chip is rejected is a warning only.
    options = ["-hide_banner", "-nostdin", "-v", "warning"]
    command = ["ffmpeg", *options, *source, *encoder.arguments, "-t", "1", "-f", "null", "-"]
    try:
        process.output_outside_job(command, timeout_s=_TIMEOUT_S, reduced=encoder.reduced)
    except EncodeFailed as error:
        return error.detail or ""
    return None
