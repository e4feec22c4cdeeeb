from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ffmpeg_ops.engine import ffmpeg, probe
from ffmpeg_ops.engine.encoder_errors import understood
from ffmpeg_ops.engine.encoders import AV1_NVENC, HEVC_NVENC, LADDERS, NVENC, SVT_AV1, X264, X265, Encoder
from ffmpeg_ops.engine.encoding import QUALITIES
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed

slow = partial(pytest.param, marks=pytest.mark.slow)
MISSPELT = replace(X264, options=("-presett", "veryfast"))
NVENCS = [NVENC, HEVC_NVENC, *([AV1_NVENC] if ffmpeg.is_from(6) else [])]


@pytest.fixture
def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


# --- the options of NVENC, without a GPU -----------------------------------------------------------------------------


def fails_with(encoder: Encoder, *more: str, work: Work) -> str:
    source = ["-f", "lavfi", "-i", "color=size=256x256:rate=25:duration=0.2"]
    with pytest.raises(EncodeFailed) as caught:
        ffmpeg.encode([*source, *encoder.arguments, *more, "-f", "mp4", "output-video.mp4"], work, length_s=0.2)
    return caught.value.detail or ""


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("encoder", NVENCS, ids=lambda encoder: encoder.name)
def test_every_option_of_nvenc_is_spelled_right(encoder: Encoder, quality: str, work: Work, has_gpu: bool) -> None:
    """Without a GPU, FFmpeg fails at an unknown option before it fails at the driver."""
    for max_rate, strict in ((None, False), (300_000, False), (300_000, True)):
        configured = replace(encoder, quality=quality, max_rate=max_rate, strict=strict)
        assert ("-cq" in configured.arguments) is not strict, "with -cq the size of the buffer is ignored"
        if has_gpu:
            assert isinstance(probe.works(configured), Encoder)
            continue
        said = fails_with(configured, work=work)
        assert "Cannot load libcuda.so.1" in said
        assert understood(said).reason == "no GPU runtime on this machine"


@pytest.mark.parametrize("encoder", NVENCS, ids=lambda encoder: encoder.name)
def test_a_misspelt_option_of_nvenc_would_be_noticed(encoder: Encoder, work: Work) -> None:
    for wrong in ("-presett p4", "-tune best", "-b_ref_mode center", "-spatial-aqq 1", "-cq 99"):
        assert "libcuda" not in fails_with(encoder, *wrong.split(), work=work)


# --- memory ----------------------------------------------------------------------------------------------------------

LARGE, HD, SMALL = 4096 * 2304, 1920 * 1080, 640 * 360


def bounds(encoder: Encoder, pixels: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    given = encoder.for_frames_of(pixels).arguments
    assert [word for word in given if word in encoder.arguments] == encoder.arguments
    return " ".join(word for word in given if word not in encoder.arguments)


def test_large_pictures_get_fewer_threads_on_machines_of_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounds(X264, LARGE, 64, monkeypatch) == "-threads 6"
    assert bounds(X264, HD, 64, monkeypatch) == "-threads 28"
    assert bounds(X264, 10**9, 64, monkeypatch) == "-threads 1"
    assert bounds(X265, LARGE, 64, monkeypatch) == "-threads 2"
    assert bounds(SVT_AV1, LARGE, 64, monkeypatch) == "-svtav1-params lp=2"
    assert bounds(SVT_AV1, HD, 64, monkeypatch) == "-svtav1-params lp=4"


def test_threads_are_limited_only_where_the_size_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoder in (X264, X265, SVT_AV1):
        assert not bounds(encoder, SMALL, 16, monkeypatch)
        assert not bounds(encoder, HD, 2, monkeypatch)
    assert not bounds(X264, LARGE, 4, monkeypatch), "as many as x264 starts there by itself"


@pytest.mark.parametrize(
    "encoder", [each for ladder in LADDERS.values() for each in ladder], ids=lambda each: each.name
)
def test_an_encoder_with_bounds_works(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    if encoder.device == "cpu":
        assert isinstance(probe.works(encoder.for_frames_of(LARGE)), Encoder)
        assert isinstance(probe.works(encoder.for_frames_of(HD)), Encoder)
    else:
        assert encoder.for_frames_of(LARGE) == encoder, "the chip encodes in its own memory"
