"""What FFmpeg's messages say about an encoder that failed, in plain words, and who is to blame."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ffmpeg_ops.engine import ffmpeg, gpu
from wire.errors import EncodeFailed


class Blame(StrEnum):
    """Where the cause of a failure lies."""

    #: This machine, for every job.
    HOST = "host"
    #: The chip or this FFmpeg, which has no encoder for the codec.
    CHIP = "chip"
    #: Other encodes on the GPU, for some time.
    LOAD = "load"
    #: This job's media: the size of the picture, or a codec that the GPU does not decode.
    MEDIA = "media"


@dataclass(frozen=True)
class Failure:
    """Why an encoder failed."""

    #: For logs and clients.
    reason: str
    #: Decides whether later jobs try the encoder.
    blame: Blame = Blame.HOST


# What FFmpeg and the driver print, and what it means; the first that matches counts. None: `gpu.refusal` knows more.
_MEANINGS: tuple[tuple[str, str | None, Blame], ...] = (
    (
        r"OpenEncodeSessionEx failed: (?:out of memory|incompatible client key)|CUDA_ERROR_OUT_OF_MEMORY"
        r"|(?:InitializeEncoder|Create(?:Input|Bitstream)Buffer) failed: out of memory",
        "no free encoder session on the GPU",
        Blame.LOAD,
    ),
    (r"(?:Width|Height) \d+ exceeds", "the picture is too large for this encoder", Blame.MEDIA),
    (r"[Dd]imension less than the minimum", "the picture is too small for this encoder", Blame.MEDIA),
    (r"libcuda\.so\.1", "no GPU runtime on this machine", Blame.HOST),
    (r"libnvidia-encode\.so\.1", "the container lacks the driver capability `video`", Blame.HOST),
    (r"required nvenc API version", "the GPU driver is older than this FFmpeg needs", Blame.HOST),
    (r"Codec not supported", "this GPU does not encode the codec", Blame.CHIP),
    (r"Unknown encoder", "this FFmpeg lacks the encoder", Blame.CHIP),
    (r"CUDA_ERROR_NO_DEVICE|no CUDA-capable device", "the driver found no GPU", Blame.HOST),
    (r"unsupported device|No capable devices found", None, Blame.HOST),
)


def understood(detail: str | None) -> Failure:
    """What the end of FFmpeg's log means."""
    for sign, reason, blame in _MEANINGS:
        if re.search(sign, detail or ""):
            return Failure(reason or gpu.refusal(), blame)
    return Failure("it did not open or stopped working")


def of_encode(error: EncodeFailed, *, on_gpu: bool) -> Failure | None:
    """Why the encoder failed; None if the failure has another cause."""
    if isinstance(error, ffmpeg.Stopped):
        return Failure(error.reason) if on_gpu or error.reason == ffmpeg.WRONG_TIMES else None
    return understood(error.detail) if ffmpeg.ENCODER_FAILED.search(error.detail or "") else None
