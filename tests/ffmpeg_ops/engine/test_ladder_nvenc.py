"""`ladder.encode` with FFmpeg's real nvenc code, on the stand-in for NVIDIA's driver."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog
from PIL import Image

from ffmpeg_ops.engine import ffmpeg, gpu, ladder, landlock, probe, sandbox
from ffmpeg_ops.operation import Work
from tests.emulators.nvenc import Driver
from tests.ffmpeg_ops.media import Media, frame_count, frame_times, psnr, run, stream
from tests.ffmpeg_ops.media import frames as shown_frames
from wire.envelope import Limits
from wire.errors import EncoderUnavailable, EncoderUnsuitable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("nvenc", ["installed", "debian-13"], indirect=True),
]
CUE = {"subtitles": "1\n00:00:00,000 --> 00:00:00,500\nA\n"}


@pytest.fixture(autouse=True)
def a_container_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.effect_noise((320, 180), 60).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def shot(work: Work, photo: Path, size: str = "320x180", **encoding: Any) -> dict[str, Any]:
    params = {"size": size, "duration": 2, "frame_rate": 25, "motion": "none", "encoding": encoding}
    return run("img2vid", work, params, url_image=photo)


def on_the_cpu(stats: dict[str, Any], work: Work, reason: str, encoder: str = "libx264") -> None:
    """One finished video, and one warning that says why."""
    assert (stats["encoder"], stats["device"], stats["frames"]) == (encoder, "cpu", frame_count(work.output("video")))
    (warning,) = stats["warnings"]
    assert reason in warning and warning.endswith(f"; used {encoder}")


# --- what the chip supports -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("chip", ["pascal", "turing", "ampere", "ada", "blackwell"])
def test_a_chip_gets_only_options_that_it_supports(
    chip: str, codec: str, nvenc: Driver, work: Work, photo: Path
) -> None:
    nvenc.set(chip=chip)
    stats = shot(work, photo, codec=codec)
    assert (stats["encoder"], "warnings" in stats, "gpu_failure" in stats) == (f"{codec}_nvenc", False, False)
    asked = nvenc.encodes[-1]
    old = chip == "pascal" and codec == "hevc"
    reordered = ffmpeg.is_from(7) and not old
    assert (asked["bframes"], asked["bref"]) == (("3", "2") if reordered else ("0", "0"))
    assert (asked["taq"], asked["lookahead"]) == ("0" if old else "1", "20")
    assert frame_times(work.output("video")) == pytest.approx([n / 25 for n in range(50)], abs=1e-4)


@pytest.mark.parametrize("rate", [23.976, 29.97, 50])
def test_times_are_exact_at_every_rate(rate: float, nvenc: Driver, work: Work, photo: Path) -> None:
    params = {"size": "320x180", "duration": 1, "frame_rate": rate, "motion": "none"}
    stats = run("img2vid", work, params, url_image=photo)
    assert stats["encoder"] == "h264_nvenc"
    times = frame_times(work.output("video"))
    assert times[0] == 0
    assert [b - a for a, b in pairwise(times)] == pytest.approx([1 / rate] * (len(times) - 1), abs=2e-4)


def test_a_fine_time_base_keeps_its_times(nvenc: Driver, work: Work, media: Media) -> None:
    """FFmpeg 5 would reorder them into the past."""
    jumpy = media.made(
        "jumpy.mp4",
        "-f lavfi -i testsrc2=size=320x180:rate=25:duration=1 -vf setpts='(N+0.3*mod(N,3))/25/TB' "
        "-fps_mode passthrough -video_track_timescale 90000 -c:v libx264 -bf 2",
    )
    stats = run("caption", work, CUE, url_video=jumpy)
    assert (stats["encoder"], stats.get("warnings")) == ("h264_nvenc", None)
    assert frame_times(work.output("video")) == pytest.approx(frame_times(jumpy), abs=2e-4)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("-f lavfi -i testsrc2=size=321x181:rate=25:duration=0.4 -c:v ffv1 -pix_fmt yuv444p", (320, 180)),
        ("-f lavfi -i testsrc2=size=320x180:rate=25:duration=0.4 -c:v ffv1 -pix_fmt yuv420p10le", (320, 180)),
        (
            "-f lavfi -i testsrc2=size=320x180:rate=25:duration=0.4 -c:v libx265 -x265-params log-level=none "
            "-pix_fmt yuv420p10le -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc",
            (320, 180),
        ),
    ],
)
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_odd_deep_and_hdr_sources_become_what_players_show(
    source: str, size: tuple[int, int], codec: str, nvenc: Driver, work: Work, media: Media
) -> None:
    stats = run("caption", work, {**CUE, "encoding": {"codec": codec}}, url_video=media.made("source.mkv", source))
    video = stream(work.output("video"), "video")
    assert (stats["encoder"], video["width"], video["height"]) == (f"{codec}_nvenc", *size)
    assert (video["pix_fmt"], frame_count(work.output("video"))) == ("yuv420p", 10)


@pytest.mark.parametrize(
    ("size", "chip", "reason"),
    [
        ("96x64", "ada", "the picture is too small for this encoder"),
        ("3840x2160", "ada", None),
        ("2160x3840", "pascal", None),
    ],
)
def test_a_picture_outside_the_limits_is_no_fault_of_the_gpu(
    size: str, chip: str, reason: str | None, nvenc: Driver, work: Work, photo: Path
) -> None:
    nvenc.set(chip=chip)
    params = {"size": size, "duration": 0.12, "frame_rate": 25, "motion": "none"}
    stats = run("img2vid", replace(work, requires_gpu=True), params, url_image=photo)
    assert "gpu_failure" not in stats
    if reason is None:
        assert stats["encoder"] == "h264_nvenc"
    else:
        on_the_cpu(stats, work, reason)
        assert probe.ask(probe.LADDERS["h264"][0]).failure is None, "the next job is encoded on the GPU"


def test_a_size_limit_is_met_with_a_buffer_when_a_hint_does_not_help(nvenc: Driver, work: Work, media: Media) -> None:
    noise = media.made(
        "noise.mp4",
        "-f lavfi -i nullsrc=size=320x180:rate=25:duration=2,geq=random(1)*255:128:128 -c:v libx264 -preset ultrafast -crf 10",
    )
    stats = run("caption", work, {**CUE, "encoding": {"max_bytes": 120_000}}, url_video=noise)
    assert (stats["encoder"], stats["size_bytes"] <= 120_000, stats["frames"]) == ("h264_nvenc", True, 50)
    first, *later = nvenc.encodes[1:]  # after the probe
    assert (first["cq"], first["vbv"]) == ("23", "0")
    assert all((row["cq"], row["rate"]) == ("0", row["vbv"]) != ("0", "0") for row in later)


def test_a_chip_without_the_codec_is_not_to_blame(nvenc: Driver, work: Work, photo: Path) -> None:
    if not ffmpeg.is_from(6):
        pytest.skip("this FFmpeg has no av1_nvenc")
    nvenc.set(chip="ampere")
    stats = shot(work, photo, codec="av1")
    on_the_cpu(stats, work, "this GPU does not encode the codec", encoder="libsvtav1")
    assert "gpu_failure" not in stats, "a rented machine is kept for other codecs"
    with pytest.raises(EncoderUnsuitable, match="does not encode the codec"):
        shot(replace(work, requires_gpu=True), photo, codec="av1")


# --- a GPU that should encode and does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"devices": 0}, "the driver found no GPU"),
        ({"cu_init": 999}, "it did not open or stopped working"),
        ({"api_version": 10.0}, "the GPU driver is older than this FFmpeg needs"),
        ({"open_error": 2}, "this GPU has no NVENC, or its host does not let the container use it"),
        ({"chip": "hopper"}, "this GPU has no NVENC, or its host does not let the container use it"),
        ({"open_crashes": 1}, "it crashed when it was tried"),
    ],
)
def test_a_gpu_that_refuses_leads_to_the_cpu_and_to_a_reason(
    settings: dict[str, Any], reason: str, nvenc: Driver, work: Work, photo: Path
) -> None:
    nvenc.set(**settings)
    stats = shot(work, photo)
    on_the_cpu(stats, work, f"h264_nvenc failed: {reason}")
    assert stats["gpu_failure"] == reason
    with pytest.raises(EncoderUnavailable, match=reason):
        shot(replace(work, requires_gpu=True), photo)


def test_a_probe_that_hangs_costs_no_job(
    nvenc: Driver, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_TIMEOUT_S", 1)
    nvenc.set(open_hangs=1)
    on_the_cpu(shot(work, photo), work, "it hung when it was tried")


def test_a_probe_that_failed_once_is_asked_again(
    nvenc: Driver, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_REPEAT_S", 0.0)
    nvenc.set(cu_init=999, faults=1)
    assert shot(work, photo)["encoder"] == "libx264"
    assert shot(work, photo)["encoder"] == "h264_nvenc"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"frame_fails": 35}, "it did not open or stopped working"),
        ({"frame_crashes": 35}, "killed by signal 11"),
        ({"frame_hangs": 35}, "it made no progress for 1 s"),
    ],
)
@pytest.mark.parametrize("operation", ["img2vid", "caption"])
def test_a_gpu_that_is_lost_in_the_middle_costs_one_encode_and_no_job(
    settings: dict[str, int],
    reason: str,
    operation: str,
    nvenc: Driver,
    work: Work,
    media: Media,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "frame_hangs" in settings:
        monkeypatch.setattr(ladder, "STALL_S", 1.0)
    nvenc.set(**settings)
    seen: list[float] = []
    watched = replace(work, progress=seen.append)
    if operation == "img2vid":
        stats = shot(watched, photo)
    else:
        made = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=2 -c:v libx264"
        stats = run("caption", watched, CUE, url_video=media.made("two_seconds.mp4", made))
    on_the_cpu(stats, work, f"h264_nvenc failed: {'FFmpeg was ' if 'signal' in reason else ''}{reason}")
    assert stats["frames"] == 50 and seen == sorted(seen) and seen[-1] == 1.0
    assert stats["gpu_failure"] in stats["warnings"][0]
    nvenc.set(frame_fails=-1, frame_crashes=-1, frame_hangs=-1)
    assert shot(work, photo)["encoder"] == "h264_nvenc", "the GPU works again"


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [10, 21])
def test_sessions_that_others_hold_are_waited_for(
    refusal: int, nvenc: Driver, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvenc.set(sessions=1, refusal=refusal)
    assert probe.best().name == "h264_nvenc"
    with nvenc.occupied(1):
        stats = shot(work, photo)
        on_the_cpu(stats, work, "no free encoder session on the GPU")
        assert "gpu_failure" not in stats, "the machine is not to blame"
    others = ExitStack()
    others.enter_context(nvenc.occupied(1))
    monkeypatch.setattr(work.stop, "wait", lambda seconds: others.close())
    stats = shot(replace(work, requires_gpu=True), photo)
    assert (stats["encoder"], "warnings" in stats) == ("h264_nvenc", False)


@pytest.mark.parametrize(("chip", "codec", "features"), [("pascal", "hevc", "0"), ("ada", "h264", "1")])
def test_sessions_that_were_used_up_at_the_probe_hide_nothing_for_long(
    chip: str, codec: str, features: str, nvenc: Driver, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe could not find out what the chip lacks, so the job does, and the next job probes again."""
    nvenc.set(chip=chip, sessions=1)
    others = ExitStack()
    others.enter_context(nvenc.occupied(1))
    monkeypatch.setattr(work.stop, "wait", lambda seconds: others.close())
    for _ in range(2):
        stats = shot(replace(work, requires_gpu=True), photo, codec=codec)
        assert (stats["encoder"], "warnings" in stats) == (f"{codec}_nvenc", False)
        assert nvenc.encodes[-1]["taq"] == features
    assert len(nvenc.encodes) == 3, "two jobs and one probe between them"


def test_two_jobs_at_once_share_the_gpu(nvenc: Driver, tmp_path: Path, photo: Path) -> None:
    works = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        works.append(Work(tmp_path / name, Limits(timeout_s=60)))
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda work: shot(work, photo), works))
    assert [stats["encoder"] for stats in done] == ["h264_nvenc"] * 2
    first, second = (shown_frames(work.output("video"), gray=False) for work in works)
    assert len(first) == len(second) == 50 and min(psnr(a, b) for a, b in zip(first, second, strict=True)) > 40


def test_a_video_that_the_gpu_does_not_decode_is_decoded_by_the_cpu(nvenc: Driver, work: Work, media: Media) -> None:
    """The stand-in has no decoder."""
    nvenc.set(min_width=2, min_height=2)
    stats = run("caption", replace(work, decodes_on_gpu=True), CUE, url_video=media.video())
    assert (stats["encoder"], stats["frames"]) == ("h264_nvenc", frame_count(work.output("video")))
    assert stats["warnings"] == ["the GPU does not decode the video; the CPU has decoded it"]
    assert "gpu_failure" not in stats
    assert len(nvenc.encodes) == 2, "the probe and one encode"
    nvenc.set(frame_fails=0)
    stats = run("caption", replace(work, decodes_on_gpu=True), CUE, url_video=media.video())
    on_the_cpu(stats, work, "h264_nvenc failed: it did not open or stopped working")
    assert len(nvenc.encodes) == 3, "without the decoder the encoder would fail too"


# --- a driver that does not work in the whole sandbox ----------------------------------------------------------------


def test_only_the_commands_that_use_such_a_gpu_run_in_the_reduced_sandbox(
    nvenc: Driver, media: Media, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one cannot write its log. The commands for probing, and a job on the CPU, stay in the whole sandbox."""
    if not landlock.version():
        pytest.skip("this kernel has no Landlock")
    video = media.video("320x180")
    confined: list[tuple[str, bool]] = []
    really = sandbox.confine

    def confine(directory: Path | None, readable: Iterable[Path] = (), *, reduced: bool = False) -> None:
        confined.append((str(directory), reduced))
        really(directory, readable, reduced=reduced)

    monkeypatch.setattr(landlock, "_DEVICES", landlock._DEVICES[:-1])
    monkeypatch.setattr(gpu, "present", lambda: True)
    monkeypatch.setattr(sandbox, "confine", confine)
    with structlog.testing.capture_logs() as logs:
        stats = run("caption", work, CUE, url_video=video)
    assert (stats["encoder"], stats["device"]) == ("h264_nvenc", "gpu")
    [warning] = stats["warnings"]
    assert warning.startswith("FFmpeg ran in a reduced sandbox: h264_nvenc does not work in the whole one: ")
    reduced = [line["command"] for line in logs if line["event"] == "sandbox.reduced"]
    assert reduced == ["ffmpeg"] * len(reduced) and len(reduced) == sum(flag for _, flag in confined) >= 2
    mine = [flag for directory, flag in confined if directory == str(work.directory)]
    assert mine.count(True) == 1 and mine.count(False) >= 1, "only the encode, and not ffprobe"
    nvenc.set(cu_init=100)
    confined.clear()
    probe._probed.clear()
    assert run("caption", work, CUE, url_video=video)["encoder"] == "libx264"
    assert not any(flag for directory, flag in confined if directory == str(work.directory))
