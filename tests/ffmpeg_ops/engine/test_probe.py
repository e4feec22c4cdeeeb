from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ffmpeg_ops.engine import ffmpeg, gpu, ladder, probe, process
from ffmpeg_ops.engine.encoder_errors import Blame, Failure
from ffmpeg_ops.engine.encoders import HEVC_NVENC, LADDERS, NVENC, X264, Encoder
from ffmpeg_ops.engine.encoding import CODECS, Encoding
from ffmpeg_ops.operation import Work
from wire.errors import EncodeFailed, EncoderUnavailable, JobTimeout, WorkerError

MISSPELT = replace(X264, options=("-presett", "veryfast"))


@pytest.fixture(autouse=True)
def nothing_probed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_probed", {})


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The encoders that were tried."""
    tried: list[str] = []
    really = probe.works
    monkeypatch.setattr(probe, "works", lambda encoder: tried.append(encoder.name) or really(encoder))
    yield tried


@pytest.mark.parametrize("codec", CODECS)
def test_the_best_encoder_works_here_and_a_gpu_is_tried_first(codec: str, probes: list[str]) -> None:
    first, second, *others = LADDERS[codec]
    assert (first.device, {encoder.device for encoder in (second, *others)}) == ("gpu", {"cpu"})
    best = probe.best(codec)
    assert best is probe.best(codec)
    assert best.name == (first.name if isinstance(probe.works(first), Encoder) else second.name)
    assert probes[:-1] == list(dict.fromkeys(probes[:-1])), "each is probed once"


@pytest.mark.parametrize("error", [JobTimeout(), WorkerError(detail="killed by signal 11")])
def test_a_probe_that_hung_or_crashed_is_repeated_later_and_later(
    error: Exception, probes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(encoder: Encoder) -> Encoder:
        raise error

    now = 1000.0
    monkeypatch.setattr(probe.time, "monotonic", lambda: now)
    pauses = []
    with monkeypatch.context() as patch:
        patch.setattr(probe, "works", fails)
        for _ in range(3):
            probed = probe.ask(NVENC)
            assert probed.failure and probed.failure.reason.endswith("when it was tried")
            assert probe.ask(NVENC) is probed, "not before its time"
            pauses.append(probed.until - now)
            now = probed.until
    assert pauses == [60, 120, 240]
    probe.ask(NVENC)
    assert probes == ["h264_nvenc"]


@pytest.mark.parametrize(("has_gpu", "tries"), [(True, 2), (False, 1)])
def test_a_gpu_that_refuses_is_asked_again_where_there_is_one(
    has_gpu: bool, tries: int, probes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(probe.time, "monotonic", lambda: now)
    monkeypatch.setattr(gpu, "expected", lambda: has_gpu)
    monkeypatch.setattr(probe, "_fails", lambda encoder: "CUDA_ERROR_UNKNOWN: unknown error")
    assert probe.ask(NVENC).failure
    now += 61
    probe.ask(NVENC)
    assert len(probes) == tries


@pytest.mark.parametrize("codec", CODECS)
def test_without_any_encoder_the_worker_is_to_blame(codec: str, monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    for module in (probe, ladder):
        monkeypatch.setattr(module, "LADDERS", {codec: (MISSPELT, MISSPELT)})
    with pytest.raises(EncoderUnavailable, match=codec) as caught:
        ladder.encode(lambda encoder: [], work, Encoding(codec), length_s=1, pixels=1, megapixels=1)
    assert caught.value.retryable
    with pytest.raises(EncoderUnavailable, match=codec):
        probe.best(codec)


@pytest.mark.parametrize("end", ["works", JobTimeout(), WorkerError(detail="signal 11"), EncodeFailed(detail="again")])
def test_a_gpu_is_tried_in_the_reduced_sandbox_whose_failures_change_nothing_else(
    end: str | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, bool]] = []

    def start(command: list[str], *, timeout_s: float = 0, reduced: str | None = None) -> str:
        started.append((command[command.index("-c:v") + 1], reduced is not None))
        if command[command.index("-c:v") + 1] == "h264_nvenc":
            if reduced is None:
                raise EncodeFailed(detail="Operation not permitted")
            if isinstance(end, Exception):
                raise end
        return ""

    monkeypatch.setattr(ffmpeg, "is_from", lambda release: True)
    monkeypatch.setattr(process, "output_outside_job", start)
    monkeypatch.setattr(gpu, "present", lambda: True)
    probed = probe.ask(NVENC)
    assert (probed.failure is None, probed.encoder.reduced is not None) == (
        (True, True) if end == "works" else (False, False)
    )
    assert probe.best("h264").name == ("h264_nvenc" if end == "works" else "libx264")
    assert probe.ask(X264).encoder.reduced is None
    again = [("h264_nvenc", False)] if end == "works" else []
    assert started == [("h264_nvenc", False), ("h264_nvenc", True), *again, ("libx264", False)]
    assert (probed.until < float("inf")) or end != "works", "the whole one is tried again later"


def test_a_failure_that_passes_does_not_lead_to_the_reduced_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter(["CUDA_ERROR_UNKNOWN: unknown error", None, None])
    monkeypatch.setattr(probe, "_fails", lambda encoder: next(failures))
    monkeypatch.setattr(gpu, "present", lambda: True)
    probed = probe.ask(NVENC)
    assert probed.failure is None and probed.encoder.reduced is None


def test_without_a_gpu_nothing_leaves_the_whole_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str | None] = []

    def start(command: list[str], *, timeout_s: float = 0, reduced: str | None = None) -> str:
        started.append(reduced)
        raise EncodeFailed(detail="Cannot load libcuda.so.1")

    monkeypatch.setattr(ffmpeg, "is_from", lambda release: True)
    monkeypatch.setattr(process, "output_outside_job", start)
    monkeypatch.setattr(gpu, "present", lambda: False)
    assert probe.ask(NVENC).failure and probe.ask(X264).failure
    monkeypatch.setattr(gpu, "present", lambda: True)
    assert isinstance(probe.works(X264), Failure) and set(started) == {None}, "nor an encoder of the CPU"


def test_an_unknown_encoder_or_option_does_not_work() -> None:
    assert probe.works(X264) == X264
    assert probe.works(MISSPELT) == Failure("it did not open or stopped working")
    assert probe.works(replace(X264, name="h264_of_tomorrow")) == Failure("this FFmpeg lacks the encoder", Blame.CHIP)


# --- what a chip lacks -----------------------------------------------------------------------------------------------

LACKS = {
    "Max B-frames 3 exceed 0": ("-bf", "3"),
    "B frames as references are not supported": ("-b_ref_mode", "middle"),
    "Temporal AQ not supported": ("-temporal-aq", "1"),
    "RC lookahead not supported": ("-rc-lookahead", "20"),
}


class Chip:
    """Refuses options as FFmpeg does, one message at a time."""

    def __init__(self, lacks: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.lacks = lacks
        monkeypatch.setattr(process, "output_outside_job", self)

    def __call__(self, command: list[str], *, timeout_s: float = 0, reduced: str | None = None) -> str:
        for message, (option, value) in self.lacks.items():
            if f"{option} {value}" in " ".join(command):
                raise EncodeFailed(detail=f"[h264_nvenc @ 0x1] {message}\n[h264_nvenc @ 0x1] No capable devices found")
        return ""


@pytest.mark.parametrize("message", [*LACKS, "all"])
@pytest.mark.parametrize("encoder", [NVENC, HEVC_NVENC])
def test_a_chip_gets_the_options_that_it_can_use(
    encoder: Encoder, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "is_from", lambda release: True)
    lacks = LACKS if message == "all" else {message: LACKS[message]}
    Chip(lacks, monkeypatch)
    found = probe.works(encoder)
    assert isinstance(found, Encoder)
    given = " ".join(found.arguments)
    for option, value in LACKS.values():
        lacked = (option, value) in lacks.values() or (option == "-b_ref_mode" and "Max B-frames 3 exceed 0" in lacks)
        assert (f"{option} {value}" in given) is not lacked
    assert ("-bf 0" in given) is ("Max B-frames 3 exceed 0" in lacks)


@pytest.mark.parametrize("release", [5, 7])
def test_frames_are_not_reordered_before_ffmpeg_7(release: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "is_from", lambda first: release >= first)
    Chip({}, monkeypatch)
    found = probe.works(NVENC)
    assert isinstance(found, Encoder)
    assert ("-bf 3" in " ".join(found.arguments), "-b_ref_mode" in found.arguments) == (release >= 7, release >= 7)
    assert ("-bf 0" in " ".join(found.arguments)) is (release < 7)


def test_an_ffmpeg_that_does_not_run_has_no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], *, timeout_s: float = 0, reduced: str | None = None) -> str:
        raise EncodeFailed(detail="no such encoder")

    monkeypatch.setattr(process, "output_outside_job", fails)
    monkeypatch.setattr(ffmpeg, "is_from", lambda release: bool(fails(["ffmpeg", "-version"])))
    with pytest.raises(probe.NoEncoder):
        probe.best()


def test_a_chip_that_refuses_for_another_reason_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_root", tmp_path)
    monkeypatch.setattr(ffmpeg, "is_from", lambda release: True)
    Chip({"OpenEncodeSessionEx failed: unsupported device (2)": ("-c:v", "h264_nvenc")}, monkeypatch)
    assert probe.works(NVENC) == Failure("this GPU has no NVENC, or its host does not let the container use it")
