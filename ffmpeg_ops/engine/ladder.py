"""Encodes with the first encoder of the codec's ladder that succeeds: the GPU's, then those of the CPU."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from ffmpeg_ops.engine import bitrate, encoder_errors, ffmpeg, gpu, probe
from ffmpeg_ops.engine.encoder_errors import Blame, Failure
from ffmpeg_ops.engine.encoders import LADDERS, Encoder
from ffmpeg_ops.engine.encoding import QUALITIES, Encoding
from ffmpeg_ops.operation import MAX_SMALL, Work
from wire.errors import AssetInvalid, EncodeFailed, EncoderUnsuitable, OutputTooLarge

log = structlog.get_logger(__name__)

STALL_S = 20.0  # a GPU that encodes nothing for so long hangs
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # while the GPU has no free session
_TIGHTER = (1.0, 0.7, 0.45)  # shares of the rate that should fit: to some encoders a cap is only a hint
_NOT_DECODED = Failure("the GPU does not decode the video", Blame.MEDIA)
_ALMOST = 0.99  # the progress of an encode that may still be rejected


@dataclass(frozen=True)
class Made:
    """An encode that succeeded."""

    #: The encoder that made it.
    encoder: Encoder
    #: What FFmpeg reported.
    encoded: ffmpeg.Encoded
    #: Why earlier encoders of the ladder failed.
    warnings: tuple[str, ...] = ()
    #: Why the GPU did not encode, where this machine is to blame.
    gpu_failure: str | None = None

    @property
    def stats(self) -> dict[str, str]:
        """The figures of StatsSchema that name the encoder."""
        failure = {"gpu_failure": self.gpu_failure} if self.gpu_failure else {}
        return {"encoder": self.encoder.name, "device": self.encoder.device, **failure}


def encode(
    command: Callable[[Encoder], list[str]],
    work: Work,
    encoding: Encoding,
    *,
    length_s: float,
    pixels: int,
    megapixels: float,
    sound_bytes: Callable[[], int] = lambda: 0,
    decodes: bool = False,
    feed: Callable[[], Iterable[bytes]] | None = None,
) -> Made:
    """Run FFmpeg with the arguments that `command` returns for an encoder, on the first rung that succeeds.

    `pixels` is what one frame has, `megapixels` what all frames have together. While the GPU has no free session, it
    is retried for as long as the CPU would take. `feed` makes standard input anew for every try; progress never goes
    back, and reaches 1 only with a success. With `encoding.max_bytes` the output is at most that large; `sound_bytes`,
    called only then, returns how many of them the sound takes. `decodes`: `command` uses the encoder's `input_options`
    for the video that it reads, so that the GPU may decode it. Raises like `ffmpeg.encode`, OutputTooLarge for a video
    that cannot be made to fit, and EncoderUnavailable without any encoder, or without the GPU where
    `work.requires_gpu`.
    """
    if pixels > MAX_SMALL:
        work.large.set()
    whole, work = work, _monotonic(work)
    rates: list[int] = []
    if encoding.max_bytes is not None:
        work = limited(work, encoding.max_bytes)
        rate = bitrate.video_rate(work.limits.max_output_bytes, length_s, sound_bytes())
        rates = [max(bitrate.MIN_RATE, int(rate * share)) for share in _TIGHTER]
    cpu_s = megapixels / LADDERS[encoding.codec][1].speed / (os.cpu_count() or 1)
    patience_s = math.inf if work.requires_gpu else cpu_s

    def run(encoder: Encoder) -> ffmpeg.Encoded:
        work.output("video").unlink(missing_ok=True)  # leftovers of an earlier try
        stall_s = STALL_S if encoder.device == "gpu" else math.inf
        given = feed() if feed else None
        arguments = command(encoder)
        return ffmpeg.encode(arguments, work, length_s=length_s, feed=given, stall_s=stall_s, reduced=encoder.reduced)

    failed = _Failed(work)
    for encoder in _working(encoding.codec, failed, work, decodes=decodes):
        try:
            chosen = replace(encoder.for_frames_of(pixels), quality=encoding.quality)
            encoded = _fitted(chosen, run, work, rates, patience_s)
        except (EncodeFailed, AssetInvalid) as error:
            failed.add(encoder, error)
            continue
        if encoder.input_options and (encoded.errors or encoded.gpu_decoder_failed):
            failed.note(encoder, _NOT_DECODED)
            if encoded.errors:
                continue
        whole.progress(1.0)
        return failed.made(encoder, encoded)
    raise failed.error or probe.no_encoder(encoding.codec)


def limited(work: Work, max_bytes: int) -> Work:
    """`work` whose output may have at most `max_bytes`."""
    max_bytes = min(max_bytes, work.limits.max_output_bytes)
    return replace(work, limits=replace(work.limits, max_output_bytes=max_bytes))


class _Failed:
    """The rungs that failed for one job."""

    def __init__(self, work: Work) -> None:
        self.error: EncodeFailed | AssetInvalid | None = None
        self._work = work
        self._failures: list[tuple[Encoder, Failure]] = []

    def add(self, encoder: Encoder, error: EncodeFailed | AssetInvalid) -> None:
        """An encode failed. Raises `error` if its cause is neither the encoder nor the GPU's decoder."""
        failure = None
        if isinstance(error, EncodeFailed):
            failure = encoder_errors.of_encode(error, on_gpu=encoder.device == "gpu")
        if encoder.input_options and (failure is None or isinstance(error, ffmpeg.Stopped)):
            failure = _NOT_DECODED
        if failure is None:
            raise error
        self.error = error
        if failure.blame is not Blame.MEDIA:
            probe.forget(encoder)
        log.warning("encoder.failed", encoder=encoder.name, reason=failure.reason)
        self.note(encoder, failure)

    def note(self, encoder: Encoder, failure: Failure) -> None:
        """Raises NoEncoder if a GPU is required and the host is to blame, EncoderUnsuitable if chip or load are."""
        self._failures.append((encoder, failure))
        if encoder.device == "gpu" and self._work.requires_gpu and failure.blame is not Blame.MEDIA:
            error = probe.NoEncoder if failure.blame is Blame.HOST else EncoderUnsuitable
            raise error(f"The GPU does not encode: {failure.reason}.")

    def encodes(self, encoder: Encoder) -> bool:
        """Whether nothing but the GPU's decoder has failed for it."""
        return all(rung.name != encoder.name or why is _NOT_DECODED for rung, why in self._failures)

    def made(self, encoder: Encoder, encoded: ffmpeg.Encoded) -> Made:
        warnings = tuple(_warning(failed, why, encoder) for failed, why in self._failures)
        if encoder.reduced:
            warnings += (f"FFmpeg ran in a reduced sandbox: {encoder.reduced}",)
        to_blame = (why.reason for rung, why in self._failures if rung.device == "gpu" and why.blame is Blame.HOST)
        return Made(encoder, encoded, warnings, next(to_blame, None))


def _warning(failed: Encoder, why: Failure, used: Encoder) -> str:
    if why is _NOT_DECODED:
        return f"{why.reason}; the CPU has decoded it"
    return f"{failed.name} failed: {why.reason}; used {used.name}"


def _working(codec: str, failed: _Failed, work: Work, *, decodes: bool) -> Iterator[Encoder]:
    """The encoders that work here, each probed when it is needed. A GPU that should work and does not is noted."""
    for rung in LADDERS[codec]:
        probed = probe.ask(rung)
        if probed.failure is None:
            if rung.device == "gpu" and decodes and work.decodes_on_gpu:
                yield probed.encoder.decoding()
            if failed.encodes(rung):
                yield probed.encoder
        elif rung.device == "gpu" and (gpu.expected() or work.requires_gpu):
            failed.note(rung, probed.failure)


def _fitted(
    encoder: Encoder,
    run: Callable[[Encoder], ffmpeg.Encoded],
    work: Work,
    rates: Sequence[int],
    patience_s: float,
) -> ffmpeg.Encoded:
    """Run with the first of `rates` whose output fits; from the second on with the lowest quality."""
    if not rates:
        return _retried(encoder, run, work, patience_s)
    for rate in rates:
        try:
            return _retried(replace(encoder, max_rate=rate), run, work, patience_s)
        except OutputTooLarge:
            log.info("encoder.limit_exceeded", encoder=encoder.name, quality=encoder.quality, max_rate=rate)
            encoder = replace(encoder, quality=QUALITIES[0], strict=True)
    raise OutputTooLarge(f"encoding.max_bytes: the video does not fit into {work.limits.max_output_bytes} bytes.")


def _retried(
    encoder: Encoder, run: Callable[[Encoder], ffmpeg.Encoded], work: Work, patience_s: float
) -> ffmpeg.Encoded:
    """Run, and retry while the GPU has no free session and waiting takes less time than the CPU."""
    for pause_s in _PAUSES_S:
        try:
            return _suited(encoder, run)
        except EncodeFailed as error:
            failure = encoder_errors.of_encode(error, on_gpu=encoder.device == "gpu")
            if failure is None or failure.blame is not Blame.LOAD or pause_s > patience_s:
                raise
            log.info("encoder.retried", encoder=encoder.name, pause_s=pause_s)
            patience_s -= pause_s
            work.stop.wait(pause_s * random.uniform(0.5, 1.0))
    return _suited(encoder, run)


def _suited(encoder: Encoder, run: Callable[[Encoder], ffmpeg.Encoded]) -> ffmpeg.Encoded:
    """Run, and drop the options that the chip lacks: a probe without a free session could not find them out."""
    while True:
        try:
            return run(encoder)
        except EncodeFailed as error:
            if not (lacking := encoder.lacking(error.detail or "")):
                raise
            encoder = encoder.without(*lacking)


def _monotonic(work: Work) -> Work:
    """`work` whose progress never goes back, however often an encode starts again, and stays below 1."""
    furthest = 0.0

    def progress(fraction: float) -> None:
        nonlocal furthest
        furthest = max(furthest, min(fraction, _ALMOST))
        work.progress(furthest)

    return replace(work, progress=progress)
