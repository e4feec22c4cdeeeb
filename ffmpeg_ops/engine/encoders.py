"""Finds encoders that work on this machine, and encodes with the first one that succeeds.

Only an encode shows whether an encoder works: FFmpeg lists h264_nvenc on machines without a GPU. Each codec has a
ladder, the GPU's encoder first; an encode that fails on one rung is repeated on the next.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from ffmpeg_ops.engine import bitrate, ffmpeg, process, sandbox
from ffmpeg_ops.engine.encoding import QUALITIES, Encoding
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed, EncoderUnavailable, JobTimeout, OutputTooLarge, WorkerError

log = structlog.get_logger(__name__)


class NoEncoder(EncoderUnavailable):
    """Not even H.264 can be encoded on this machine, so the machine is at fault."""


@dataclass(frozen=True)
class Encoder:
    """An FFmpeg video encoder with its options."""

    #: FFmpeg's name of it.
    name: str
    #: `gpu` or `cpu`.
    device: str
    #: FFmpeg's options that are the same for every job.
    options: tuple[str, ...]
    #: The value of the quality option for each of QUALITIES.
    levels: tuple[int, ...]
    #: The quality option.
    scale: str = "-crf"
    #: The options that are set to `max_rate`.
    cap: tuple[str, ...] = ("-maxrate", "-bufsize")
    #: One of QUALITIES.
    quality: str = "standard"
    #: Maximum bits a second, None without a limit.
    max_rate: int | None = None

    @property
    def arguments(self) -> list[str]:
        """FFmpeg's options that select and configure the encoder."""
        level = [self.scale, str(self.levels[QUALITIES.index(self.quality)])]
        cap = [word for option in self.cap for word in (option, str(self.max_rate))] if self.max_rate else []
        return ["-c:v", self.name, *self.options, *level, *cap, "-pix_fmt", "yuv420p"]


def _nvenc(codec: str, levels: tuple[int, ...], *more: str) -> Encoder:
    options = (
        *("-preset", "p4", "-tune", "hq", "-rc", "vbr", "-bf", "3", "-b_ref_mode", "middle"),
        *("-spatial-aq", "1", "-temporal-aq", "1", "-rc-lookahead", "20", *more),
    )
    return Encoder(f"{codec}_nvenc", "gpu", options, levels, scale="-cq")


_APPLE = ("-tag:v", "hvc1")  # Apple's players refuse HEVC under the other tag
NVENC = _nvenc("h264", (28, 23, 19, 16), "-profile:v", "high")
HEVC_NVENC = _nvenc("hevc", (31, 26, 22, 18), "-profile:v", "main", *_APPLE)
AV1_NVENC = _nvenc("av1", (41, 33, 27, 22))
X264 = Encoder("libx264", "cpu", ("-preset", "veryfast", "-profile:v", "high"), (28, 23, 19, 16))
X265 = Encoder(
    "libx265",
    "cpu",
    ("-preset", "veryfast", "-profile:v", "main", "-x265-params", "log-level=none", *_APPLE),
    (31, 26, 22, 18),
)
SVT_AV1 = Encoder("libsvtav1", "cpu", ("-preset", "10"), (45, 35, 28, 21))
# For what SVT-AV1 does not accept: sides of less than 64 pixels.
AOM_AV1 = Encoder("libaom-av1", "cpu", ("-cpu-used", "8", "-row-mt", "1"), (45, 35, 28, 21), cap=("-b:v",))
LADDERS = {"h264": (NVENC, X264), "hevc": (HEVC_NVENC, X265), "av1": (AV1_NVENC, SVT_AV1, AOM_AV1)}

_BUSY = re.compile(r"OpenEncodeSessionEx failed: (?:out of memory|incompatible client key)|CUDA_ERROR_OUT_OF_MEMORY")
_NO_SESSION = "no free encoder session on the GPU"
_REASONS = (
    ("libcuda.so.1", "no GPU runtime on this machine"),
    ("libnvidia-encode.so.1", "the container lacks the driver capability `video`"),
    ("required nvenc API version", "the GPU driver is older than this FFmpeg needs"),
    ("unsupported device", "this GPU has no NVENC"),
)
_PROBE_TIMEOUT_S = 20
_REPEAT_PROBE_S = 60.0  # after a probe that hung or crashed
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # while the GPU has no free session
_TIGHTER = (1.0, 0.7, 0.45)  # shares of the rate that should fit: to some encoders a cap is only a hint

_lock = threading.Lock()
_probed: dict[str, tuple[bool, float]] = {}  # by name: whether it works, and how long that result is valid


@dataclass(frozen=True)
class Made:
    """An encode that succeeded."""

    #: The encoder that made it.
    encoder: Encoder
    #: What FFmpeg reported.
    encoded: ffmpeg.Encoded
    #: Why earlier encoders of the ladder failed.
    warnings: tuple[str, ...] = ()


def encode(
    command: Callable[[Encoder], list[str]],
    work: Work,
    encoding: Encoding,
    *,
    length_s: float,
    sound_bytes: Callable[[], int] = lambda: 0,
    feed: Callable[[], Iterable[bytes]] | None = None,
) -> Made:
    """Run FFmpeg with the arguments that `command` returns for an encoder, on the first rung that succeeds.

    While the GPU has no free session, it is retried for some seconds. `feed` makes standard input anew for every try;
    progress never goes back, and reaches 1 only with a success. With `encoding.max_bytes` the output is at most that
    large; `sound_bytes`, called only then, returns how many of them the sound takes. Raises like `ffmpeg.encode`,
    OutputTooLarge for a video that cannot be made to fit, and EncoderUnavailable without any encoder.
    """
    whole, work = work, _monotonic(work)
    rates: list[int] = []
    if encoding.max_bytes is not None:
        work = limited(work, encoding.max_bytes)
        rate = bitrate.video_rate(work.limits.max_output_bytes, length_s, sound_bytes())
        rates = [max(bitrate.MIN_RATE, int(rate * share)) for share in _TIGHTER]

    def run(encoder: Encoder) -> ffmpeg.Encoded:
        work.output("video").unlink(missing_ok=True)  # leftovers of an earlier try
        return ffmpeg.encode(command(encoder), work, length_s=length_s, feed=feed() if feed else None)

    failed: list[tuple[str, EncodeFailed]] = []
    for rung in _rungs(encoding.codec):
        try:
            encoded = _fitted(replace(rung, quality=encoding.quality), run, work, rates)
            whole.progress(1.0)
            return Made(rung, encoded, tuple(f"{why}; used {rung.name}" for why, _ in failed))
        except EncodeFailed as error:
            why = _encoder_failure(error.detail)
            if why is None:
                raise
            _forget(rung)
            failed.append((f"{rung.name} failed: {why}", error))
            log.warning("encoder.failed", encoder=rung.name, reason=why)
    raise failed[-1][1]


def best(codec: str = "h264") -> Encoder:
    """The first encoder of the codec that works on this machine. Raises EncoderUnavailable when none does."""
    return next(_rungs(codec))


def limited(work: Work, max_bytes: int) -> Work:
    """`work` whose output may have at most `max_bytes`."""
    max_bytes = min(max_bytes, work.limits.max_output_bytes)
    return replace(work, limits=replace(work.limits, max_output_bytes=max_bytes))


def works(encoder: Encoder) -> bool:
    """Whether an encode of a few small frames with the options of a real job succeeds.

    A GPU without a free session counts as working. If the GPU works only without the sandbox, the sandbox is disabled
    for good, because the GPU is paid for.
    """
    if _works(encoder):
        return True
    if encoder.device == "gpu" and sandbox.may_block_gpu():
        sandbox.disable(True)
        if _works(encoder):
            log.error("sandbox.disabled", reason=f"{encoder.name} does not work inside it")
            return True
        sandbox.disable(False)
    return False


def _works(encoder: Encoder) -> bool:
    source = ["-f", "lavfi", "-i", "color=size=256x256:rate=25:duration=0.2"]
    options = ["-hide_banner", "-nostdin", "-v", "error"]
    command = ["ffmpeg", *options, *source, *encoder.arguments, "-t", "1", "-f", "null", "-"]
    try:
        process.output_outside_job(command, timeout_s=_PROBE_TIMEOUT_S)
    except EncodeFailed as error:
        log.info("encoder.rejected", encoder=encoder.name, reason=_reason(error.detail), detail=error.detail)
        return _reason(error.detail) == _NO_SESSION
    return True


def _rungs(codec: str) -> Iterator[Encoder]:
    """The ladder's working encoders, each probed when it is needed. Raises EncoderUnavailable when none works."""
    found = False
    for encoder in LADDERS[codec]:
        if _usable(encoder):
            found = True
            yield encoder
    if not found:
        raise (NoEncoder if codec == "h264" else EncoderUnavailable)(f"The worker has no working encoder for {codec}.")


def _usable(encoder: Encoder) -> bool:
    """Whether it works, probed once per process; a probe that hung or crashed is repeated after a while."""
    with _lock:
        usable, until = _probed.get(encoder.name, (False, 0.0))
        if time.monotonic() >= until:
            try:
                usable, until = works(encoder), float("inf")
            except (JobTimeout, WorkerError) as error:
                usable, until = False, time.monotonic() + _REPEAT_PROBE_S
                log.warning("encoder.probe_failed", encoder=encoder.name, reason=error.detail or error.message)
            _probed[encoder.name] = (usable, until)
            log.info("encoder.probed", encoder=encoder.name, device=encoder.device, works=usable)
        return usable


def _forget(encoder: Encoder) -> None:
    """Make the next job probe this encoder again."""
    with _lock:
        _probed.pop(encoder.name, None)


def _fitted(
    encoder: Encoder, run: Callable[[Encoder], ffmpeg.Encoded], work: Work, rates: Sequence[int]
) -> ffmpeg.Encoded:
    """Run with the first of `rates` whose output fits; from the second on with the lowest quality."""
    if not rates:
        return _retried(encoder, run, work)
    for rate in rates:
        try:
            return _retried(replace(encoder, max_rate=rate), run, work)
        except OutputTooLarge:
            log.info("encoder.limit_exceeded", encoder=encoder.name, quality=encoder.quality, max_rate=rate)
            encoder = replace(encoder, quality=QUALITIES[0])
    raise OutputTooLarge(f"encoding.max_bytes: the video does not fit into {work.limits.max_output_bytes} bytes.")


def _retried(encoder: Encoder, run: Callable[[Encoder], ffmpeg.Encoded], work: Work) -> ffmpeg.Encoded:
    """Run, and retry while the GPU has no free session."""
    for pause_s in _PAUSES_S:
        try:
            return run(encoder)
        except EncodeFailed as error:
            if not _BUSY.search(error.detail or ""):
                raise
            log.info("encoder.retried", encoder=encoder.name, pause_s=pause_s)
            work.stop.wait(pause_s * random.uniform(0.5, 1.0))
    return run(encoder)


# The progress of an encode that may still be rejected.
_ALMOST = 0.99


def _monotonic(work: Work) -> Work:
    """`work` whose progress never goes back, however often an encode starts again, and stays below 1."""
    furthest = 0.0

    def progress(fraction: float) -> None:
        nonlocal furthest
        furthest = max(furthest, min(fraction, _ALMOST))
        work.progress(furthest)

    return replace(work, progress=progress)


def _encoder_failure(detail: str | None) -> str | None:
    """Why the encoder failed; None if the failure has another cause."""
    return _reason(detail) if ffmpeg.ENCODER_FAILED.search(detail or "") else None


def _reason(detail: str | None) -> str:
    if _BUSY.search(detail or ""):
        return _NO_SESSION
    return next((why for sign, why in _REASONS if sign in (detail or "")), "it did not open or stopped working")
