"""Which H.264 encoder really works here. Only an encode tells: FFmpeg lists h264_nvenc on machines without a GPU."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from ffmpeg_ops import ffmpeg
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed, JobTimeout, WorkerError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Encoder:
    """An FFmpeg video encoder with the options of every real job. `device` is gpu or cpu."""

    name: str
    device: str
    options: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        return ["-c:v", self.name, *self.options, "-pix_fmt", "yuv420p"]


NVENC = Encoder(
    "h264_nvenc",
    "gpu",
    (
        *("-preset", "p4", "-tune", "hq", "-rc", "vbr", "-cq", "23", "-profile:v", "high"),
        *("-bf", "3", "-b_ref_mode", "middle", "-spatial-aq", "1", "-temporal-aq", "1", "-rc-lookahead", "20"),
    ),
)
X264 = Encoder("libx264", "cpu", ("-preset", "veryfast", "-crf", "23", "-profile:v", "high"))
LADDER = (NVENC, X264)

_REASONS = (
    ("libcuda.so.1", "no GPU runtime on this machine"),
    ("libnvidia-encode.so.1", "the container lacks the driver capability `video`"),
    ("required nvenc API version", "the GPU driver is older than this FFmpeg needs"),
    ("unsupported device", "this GPU has no NVENC"),
    ("out of memory", "no free encoder session on the GPU"),
)
_PROBE_TIMEOUT_S = 20
_lock = threading.Lock()
_chosen: Encoder | None = None


def best() -> Encoder:
    """The first encoder of LADDER that works here, probed once per process. Raises WorkerError when none does."""
    global _chosen
    with _lock:
        if _chosen is None:
            _chosen = next((encoder for encoder in LADDER if works(encoder)), None)
            if _chosen is None:
                raise WorkerError("The worker has no working H.264 encoder.")
            log.info("encoder.chosen", encoder=_chosen.name, device=_chosen.device)
        return _chosen


def works(encoder: Encoder) -> bool:
    """Encode a few small frames with the options of the real job."""
    source = ["-f", "lavfi", "-i", "color=size=256x256:rate=25:duration=0.2"]
    command = [
        "ffmpeg",
        "-hide_banner",
        "-nostdin",
        "-v",
        "error",
        *source,
        *encoder.arguments,
        "-t",
        "1",
        "-f",
        "null",
        "-",
    ]
    try:
        ffmpeg.output_of(command, Work(Path(tempfile.gettempdir())), timeout_s=_PROBE_TIMEOUT_S)  # writes nothing there
    except (EncodeFailed, JobTimeout) as error:
        log.info("encoder.unusable", encoder=encoder.name, reason=_reason(error.detail), detail=error.detail)
        return False
    return True


def _reason(detail: str | None) -> str:
    return next((why for sign, why in _REASONS if sign in (detail or "")), "the test encode failed")
