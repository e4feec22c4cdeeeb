"""The video encoders, their options, and the order in which each codec tries them: the GPU's first."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ffmpeg_ops.engine.encoding import QUALITIES


@dataclass(frozen=True)
class Feature:
    """Options that not every chip or release of FFmpeg can use; the probe finds out."""

    #: FFmpeg's options.
    options: tuple[str, ...]
    #: What FFmpeg prints where the chip lacks the feature.
    missing: str
    #: The options without it.
    instead: tuple[str, ...] = ()
    #: First release of FFmpeg in which the feature works.
    since: int = 0


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
    #: The same for `strict`; they replace the quality option. Empty: the same as `cap`, beside it.
    strict_cap: tuple[str, ...] = ()
    #: What the chip may lack.
    features: tuple[Feature, ...] = ()
    #: CPU encoders: megapixels a second and core, a rough figure.
    speed: float = 1.0
    #: Returns FFmpeg's options that bound the encoder's memory for frames of so many pixels. By default encoders start
    #: as many threads as the machine has cores, and every thread holds some frames.
    bounds: Callable[[int], tuple[str, ...]] = lambda pixels: ()
    #: FFmpeg's options for the video that is read.
    input_options: tuple[str, ...] = ()
    #: One of QUALITIES.
    quality: str = "standard"
    #: Maximum bits a second, None without a limit.
    max_rate: int | None = None
    #: Whether `max_rate` counts more than the quality.
    strict: bool = False
    #: Why its commands run in the reduced sandbox; None in the whole one.
    reduced: str | None = None

    @property
    def arguments(self) -> list[str]:
        """FFmpeg's options that select and configure the encoder."""
        options = [*self.options, *(word for feature in self.features for word in feature.options)]
        strict = self.strict and bool(self.strict_cap)
        names = (self.strict_cap if strict else self.cap) if self.max_rate else ()
        level = [] if strict else [self.scale, str(self.levels[QUALITIES.index(self.quality)])]
        cap = [word for name in names for word in (name, str(self.max_rate))]
        return ["-c:v", self.name, *options, *level, *cap, "-pix_fmt", "yuv420p"]

    def without(self, *lacking: Feature) -> Encoder:
        """The same encoder without these features."""
        kept = tuple(feature for feature in self.features if feature not in lacking)
        instead = tuple(word for feature in lacking for word in feature.instead)
        return replace(self, features=kept, options=(*self.options, *instead))

    def for_frames_of(self, pixels: int) -> Encoder:
        """The same encoder with its memory bounded for frames of so many pixels."""
        return replace(self, options=(*self.options, *self.bounds(pixels)))

    def decoding(self) -> Encoder:
        """The same encoder, which gets its frames from the GPU's decoder."""
        return replace(self, input_options=("-hwaccel", "cuda"))

    def lacking(self, printed: str) -> list[Feature]:
        """The features that the chip lacks, by what FFmpeg printed."""
        return [feature for feature in self.features if re.search(feature.missing, printed)]


# FFmpeg before 7 gives frames wrong times where NVENC reorders them and the time base is fine. In `instead`, 0 is
# written because the preset has B-frames of its own.
_NVENC_FEATURES = (
    Feature(("-bf", "3"), "Max B-frames", instead=("-bf", "0"), since=7),
    Feature(("-b_ref_mode", "middle"), "Max B-frames|B frames? as references? (?:is|are) not supported", since=7),
    Feature(("-temporal-aq", "1"), "Temporal AQ not supported"),
    Feature(("-rc-lookahead", "20"), "RC lookahead not supported"),
)


def _nvenc(codec: str, levels: tuple[int, ...], *more: str) -> Encoder:
    options = ("-preset", "p4", "-tune", "hq", "-rc", "vbr", "-spatial-aq", "1", *more)
    # With a quality, NVENC ignores the size of the buffer, so that the cap is only a hint.
    strict_cap = ("-b:v", "-maxrate", "-bufsize")
    return Encoder(
        f"{codec}_nvenc", "gpu", options, levels, scale="-cq", strict_cap=strict_cap, features=_NVENC_FEATURES
    )


_HD, _LARGE = 1_000_000, 4_000_000  # pixels from which memory has to be bounded


def _x264_bounds(pixels: int) -> tuple[str, ...]:
    # x264 alone needs 0.7 GB for 4096x2304, and with the 72 threads of a machine of 48 cores 3.8 GB.
    most = max(1, 60_000_000 // pixels)
    return ("-threads", str(most)) if most < 1.5 * (os.cpu_count() or 1) else ()


def _x265_bounds(pixels: int) -> tuple[str, ...]:
    # These are frames encoded at a time: the threads that share a frame cost little.
    return ("-threads", "2") if pixels > _LARGE else ()


def _svt_av1_bounds(pixels: int) -> tuple[str, ...]:
    # SVT-AV1 alone needs 1.8 GB for 4096x2304 with a level of 2, and 6.5 GB with the default on 64 cores.
    level = 2 if pixels > _LARGE else 4
    return ("-svtav1-params", f"lp={level}") if pixels > _HD and level < (os.cpu_count() or 1) else ()


_APPLE = ("-tag:v", "hvc1")  # Apple's players refuse HEVC under the other tag
NVENC = _nvenc("h264", (28, 23, 19, 16), "-profile:v", "high")
HEVC_NVENC = _nvenc("hevc", (31, 26, 22, 18), "-profile:v", "main", *_APPLE)
AV1_NVENC = _nvenc("av1", (41, 33, 27, 22))
X264 = Encoder(
    "libx264", "cpu", ("-preset", "veryfast", "-profile:v", "high"), (28, 23, 19, 16), speed=18, bounds=_x264_bounds
)
X265 = Encoder(
    "libx265",
    "cpu",
    ("-preset", "veryfast", "-profile:v", "main", "-x265-params", "log-level=none", *_APPLE),
    (31, 26, 22, 18),
    speed=9,
    bounds=_x265_bounds,
)
SVT_AV1 = Encoder("libsvtav1", "cpu", ("-preset", "10"), (45, 35, 28, 21), speed=17, bounds=_svt_av1_bounds)
# For what SVT-AV1 does not accept: sides of less than 64 pixels.
AOM_AV1 = Encoder("libaom-av1", "cpu", ("-cpu-used", "8", "-row-mt", "1"), (45, 35, 28, 21), cap=("-b:v",), speed=3)
LADDERS = {"h264": (NVENC, X264), "hevc": (HEVC_NVENC, X265), "av1": (AV1_NVENC, SVT_AV1, AOM_AV1)}
