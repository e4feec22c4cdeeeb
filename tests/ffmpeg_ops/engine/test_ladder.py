from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ffmpeg_ops.engine import bitrate, encoders, ffmpeg, ladder, probe, process, sandbox
from ffmpeg_ops.engine.encoders import AV1_NVENC, HEVC_NVENC, NVENC, X264, Encoder
from ffmpeg_ops.engine.encoding import CODECS, QUALITIES, Encoding
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, frame_count, frames, run, stream
from wire.envelope import Limits
from wire.errors import Cancelled, EncodeFailed, EncoderUnavailable, OutputTooLarge

slow = partial(pytest.param, marks=pytest.mark.slow)
MISSPELT = replace(X264, options=("-presett", "veryfast"))
NVENCS = [NVENC, HEVC_NVENC, *([AV1_NVENC] if ffmpeg.is_from(6) else [])]


@pytest.fixture(autouse=True)
def nothing_probed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_probed", {})


@pytest.fixture
def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The encoders that were tried."""
    tried: list[str] = []
    really = encoders.works
    monkeypatch.setattr(encoders, "works", lambda encoder: tried.append(encoder.name) or really(encoder))
    yield tried


# --- through the ladder ----------------------------------------------------------------------------------------------

# An FFmpeg whose h264_nvenc prints messages recorded from real GPUs, and otherwise encodes on the CPU.
FAKE = """#!{python} -IS
import os, subprocess, sys, time
from pathlib import Path
here, arguments = Path(__file__).parent, sys.argv[1:]
if "h264_nvenc" in arguments:
    tries = here / "tries"
    tries.open("a").write("null " if "null" in arguments else "job ")
    said = here / ("probe" if "null" in arguments else "job") / str(tries.read_text().split().count("job"))
    if not said.exists():
        said = said.with_name("always")
    begin, end = arguments.index("h264_nvenc"), arguments.index("yuv420p", arguments.index("h264_nvenc"))
    arguments[begin : end - 1] = ["libx264", "-preset", "ultrafast"]
    if said.exists():
        if "EncodePicture" in said.read_text():  # after some frames
            subprocess.run(["{ffmpeg}", *arguments[:-1], "-frames:v", "10", arguments[-1]])
        if "signal" in said.read_text():
            os.kill(os.getpid(), int(said.read_text().split()[-1]))
        if "hangs" in said.read_text():
            subprocess.run(["{ffmpeg}", *arguments[:-1], "-frames:v", "10", arguments[-1]])
            time.sleep(600)
        if "hwaccel" in said.read_text():
            print(said.read_text(), file=sys.stderr)
            os.execv("{ffmpeg}", ["ffmpeg", *(word for word in arguments if word not in ("-hwaccel", "cuda"))])
        if "Invalid DTS" in said.read_text():
            subprocess.run(["{ffmpeg}", *arguments])
            print(said.read_text(), file=sys.stderr)
            sys.exit()
        sys.exit(said.read_text() + "Error while opening encoder - maybe incorrect parameters such as bit_rate")
os.execv("{ffmpeg}", ["ffmpeg", *arguments])
"""
LIMIT = "[h264_nvenc @ 0x5581] [error] OpenEncodeSessionEx failed: out of memory (10): (no details)\n"
NO_MEMORY = "[h264_nvenc @ 0x5581] [error] InitializeEncoder failed: out of memory (10): (no details)\n"
NEW_LIMIT = "[h264_nvenc @ 0x5581] [error] OpenEncodeSessionEx failed: incompatible client key (21): (no details)\n"
LOST = "[h264_nvenc @ 0x5581] [error] cuInit(0) failed -> CUDA_ERROR_NO_DEVICE: no CUDA-capable device\n"
CRASHED = "[h264_nvenc @ 0x5581] [error] EncodePicture failed!: generic error (20): (no details)\n"


class Gpu:
    """A simulated GPU: `says(message, times)` makes so many tries fail, or all of them."""

    def __init__(self, folder: Path, really: str) -> None:
        self.folder = folder
        script = folder / "ffmpeg"
        script.write_text(FAKE.format(python=sys.executable, ffmpeg=really))
        script.chmod(0o755)

    def says(self, message: str, times: int | None = None, to: str = "job") -> None:
        names = ["always"] if times is None else [str(n + 1) for n in range(times)]
        (self.folder / to).mkdir()
        for name in names:
            (self.folder / to / name).write_text(message)

    @property
    def tries(self) -> list[str]:
        return (self.folder / "tries").read_text().split()


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Gpu(folder, str(process.find("ffmpeg")))
    # It keeps files beside itself.
    monkeypatch.setattr(sandbox, "confine", lambda directory, readable=(), *, reduced=False: None)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(ladder, "_PAUSES_S", (0.001, 0.001, 0.001))
    return made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.effect_noise((96, 64), 60).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def shot(work: Work, photo: Path, **encoding: Any) -> dict[str, Any]:
    params = {"size": "160x90", "duration": 1, "frame_rate": 25, "motion": "none", "encoding": encoding}
    return run("img2vid", work, params, url_image=photo)


@pytest.mark.parametrize(("message", "times"), [("", 0), (LIMIT, 2), (NEW_LIMIT, 2), (NO_MEMORY, 2)])
def test_a_job_runs_on_the_gpu_once_it_has_a_free_session(
    message: str, times: int, gpu: Gpu, work: Work, photo: Path
) -> None:
    gpu.says(message, times)
    stats = shot(work, photo)
    assert (stats["encoder"], stats["device"]) == ("h264_nvenc", "gpu") and "warnings" not in stats
    assert stats["frames"] == frame_count(work.output("video")) == 25, "each try is fed from the start"
    assert gpu.tries == ["null", *["job"] * (times + 1)]


def test_a_session_limit_that_stays_leads_to_the_cpu_for_one_job(gpu: Gpu, work: Work, photo: Path) -> None:
    gpu.says(LIMIT, 4)
    seen: list[float] = []
    stats = shot(replace(work, progress=seen.append), photo)
    assert (stats["encoder"], stats["device"], frame_count(work.output("video"))) == ("libx264", "cpu", 25)
    assert stats["warnings"] == ["h264_nvenc failed: no free encoder session on the GPU; used libx264"]
    assert gpu.tries == ["null", *["job"] * 4]
    assert seen == sorted(seen) and seen[-1] == 1.0
    probe._probed.clear()
    gpu.says(LIMIT, to="probe")
    assert shot(work, photo)["encoder"] == "h264_nvenc", "a limit during the probe does not rule the GPU out"


def test_a_driver_that_is_lost_leads_to_the_cpu_at_once(gpu: Gpu, work: Work, photo: Path) -> None:
    gpu.says(LOST)
    stats = shot(work, photo)
    assert stats["encoder"] == "libx264" and gpu.tries == ["null", "job"]
    assert stats["warnings"] == ["h264_nvenc failed: the driver found no GPU; used libx264"]
    gpu.says(LOST, to="probe")
    assert "warnings" not in shot(work, photo), "the next job probes it again"
    assert gpu.tries == ["null", "job", "null"]
    assert "warnings" not in shot(work, photo) and gpu.tries == ["null", "job", "null"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("signal 11", "FFmpeg was killed by signal 11"),
        ("signal 9", "FFmpeg was killed by signal 9"),
        ("hangs", "it made no progress for 0.5 s"),
        ("[mp4 @ 0x5581] [warning] Invalid DTS: 40 PTS: 0 in output stream 0:0, replacing by guess", "it gave frames wrong times"),
        ("[h264_nvenc @ 0x5581] [warning] Width 8000 exceeds 4096\n[h264_nvenc @ 0x5581] [error] No capable devices found\n", "the picture is too large for this encoder"),
    ],
)  # fmt: skip
def test_whatever_the_gpu_does_the_client_gets_one_video_and_one_warning(
    message: str, reason: str, gpu: Gpu, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if message == "hangs":
        monkeypatch.setattr(ladder, "STALL_S", 0.5)
    gpu.says(message)
    stats = shot(work, photo)
    assert (stats["encoder"], stats["device"], frame_count(work.output("video"))) == ("libx264", "cpu", 25)
    assert stats["warnings"] == [f"h264_nvenc failed: {reason}; used libx264"]
    too_large = "too large" in reason
    assert stats.get("gpu_failure") == (None if too_large else reason), "a large picture is not the machine's fault"
    assert ("h264_nvenc" in probe._probed) is too_large, "the next job probes an encoder that failed again"


@pytest.mark.parametrize("message", [
    "Hardware is lacking required capabilities", "Video width 32 not within range from 48 to 4096",
    "Video macroblock count 70000 exceeds maximum of 65536", "Failed loading nvcuvid.",
    "decoder->cvdl->cuvidCreateDecoder(&decoder->decoder, params) failed -> CUDA_ERROR_NOT_SUPPORTED: operation not supported",
])  # fmt: skip
def test_a_video_that_the_gpu_cannot_decode_is_encoded_once(message: str, gpu: Gpu, work: Work, media: Media) -> None:
    """FFmpeg decodes it on the CPU: nothing is damaged."""
    source = "[h264 @ 0x5581] [error] "
    gpu.says(f"{source}{message}\n{source}Failed setup for format cuda: hwaccel initialisation returned error.\n")
    stats = run("caption", replace(work, decodes_on_gpu=True), CUE, url_video=media.video())
    assert (stats["encoder"], gpu.tries) == ("h264_nvenc", ["null", "job"])
    assert stats["warnings"] == ["the GPU does not decode the video; the CPU has decoded it"]


def test_a_slow_feed_is_no_stall_of_the_gpu(gpu: Gpu, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(ffmpeg.time, "monotonic", lambda: now)

    def slow_feed() -> Iterator[bytes]:
        nonlocal now
        for _ in range(4):
            now += 0.9 * ladder.STALL_S
            yield bytes(64 * 64 * 3 // 2)

    def command(encoder: Encoder) -> list[str]:
        raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-video_size", "64x64", "-i", "pipe:0"]
        return [*raw, *encoder.arguments, "-f", "mp4", "output-video.mp4"]

    made = ladder.encode(command, work, Encoding(), length_s=1, pixels=1, megapixels=1, feed=slow_feed)
    assert (made.encoder.name, made.encoded.frames, made.warnings) == ("h264_nvenc", 4, ())


def test_a_required_gpu_that_does_not_encode_fails_the_attempt(gpu: Gpu, work: Work, photo: Path) -> None:
    required = replace(work, requires_gpu=True)
    assert shot(required, photo)["encoder"] == "h264_nvenc"
    gpu.says(CRASHED)
    with pytest.raises(EncoderUnavailable, match="it did not open or stopped working") as caught:
        shot(required, photo)
    assert caught.value.retryable and isinstance(caught.value, probe.NoEncoder), "RunPod replaces such a worker"
    gpu.says(LOST, to="probe")
    with pytest.raises(EncoderUnavailable, match="the driver found no GPU"):
        shot(required, photo)
    assert shot(work, photo)["encoder"] == "libx264"


def test_a_picture_that_no_gpu_encodes_needs_none(gpu: Gpu, work: Work, photo: Path) -> None:
    gpu.says("[h264_nvenc @ 0x5581] [error] Frame Dimension less than the minimum supported value\n")
    stats = shot(replace(work, requires_gpu=True), photo)
    assert stats["encoder"] == "libx264"
    assert stats["warnings"] == ["h264_nvenc failed: the picture is too small for this encoder; used libx264"]


def test_a_job_does_not_wait_longer_for_the_gpu_than_the_cpu_takes(
    gpu: Gpu, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "_PAUSES_S", (600.0,))
    gpu.says(LIMIT, 1)
    assert shot(work, photo)["encoder"] == "libx264"
    assert gpu.tries == ["null", "job"]


def test_a_gpu_that_should_work_and_fails_its_probe_is_a_warning(
    gpu: Gpu, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.says(LOST, to="probe")
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    stats = shot(work, photo)
    assert stats["warnings"] == ["h264_nvenc failed: the driver found no GPU; used libx264"]
    assert stats["gpu_failure"] == "the driver found no GPU"


def test_progress_waits_while_an_encode_starts_again(gpu: Gpu, work: Work, photo: Path) -> None:
    gpu.says(CRASHED)
    seen: list[float] = []
    stats = shot(replace(work, progress=seen.append), photo)
    assert (stats["encoder"], frame_count(work.output("video")), len(stats["warnings"])) == ("libx264", 25, 1)
    assert seen == sorted(seen) and any(0.2 < share < 0.5 for share in seen) and seen[-1] == 1.0


def test_the_other_operations_fall_back_too(gpu: Gpu, work: Work, media: Media) -> None:
    gpu.says(LOST)
    caption = run("caption", work, {"subtitles": "1\n00:00:00,000 --> 00:00:00,500\nA\n"}, url_video=media.video())
    assert caption["encoder"] == "libx264" and len(caption["warnings"]) == 1
    assert frame_count(work.output("video")) == 25
    sound = run("adicionaAudio", work, url_video=media.webm(), url_audio=media.tone())
    assert sound["encoder"] == "libx264" and len(sound["warnings"]) == 1
    assert frame_count(work.output("video")) == 25


def test_a_bad_input_is_not_tried_on_another_encoder(gpu: Gpu, work: Work) -> None:
    tried: list[str] = []

    def command(encoder: Encoder) -> list[str]:
        tried.append(encoder.name)
        return ["-i", "nothing.mp4", *encoder.arguments, "-f", "mp4", "output-video.mp4"]

    with pytest.raises(EncodeFailed) as caught:
        ladder.encode(command, work, Encoding(), length_s=1, pixels=1, megapixels=1)
    assert "nothing.mp4" in (caught.value.detail or "") and tried == ["h264_nvenc"]


def test_a_stop_ends_the_wait_for_the_gpu(gpu: Gpu, work: Work, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.says(LIMIT)
    monkeypatch.setattr(ladder, "_PAUSES_S", (600.0,))
    wait = work.stop.wait

    def stopped_meanwhile(seconds: float) -> None:
        threading.Timer(0.1, lambda: work.stop.set(Cancelled())).start()
        wait(seconds)

    monkeypatch.setattr(work.stop, "wait", stopped_meanwhile)
    with pytest.raises(Cancelled):
        shot(replace(work, requires_gpu=True), photo)


# --- what a client may ask -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "tag"), [("hevc", "hvc1"), ("av1", "av01"), ("h264", "avc1")])
def test_every_codec_makes_a_video_that_decodes(codec: str, tag: str, work: Work, photo: Path) -> None:
    stats = shot(work, photo, codec=codec)
    video = stream(work.output("video"), "video")
    assert (video["codec_name"], video["codec_tag_string"], video["pix_fmt"]) == (codec, tag, "yuv420p")
    assert [video[key] for key in ("color_range", "color_space", "color_transfer")] == ["tv", "bt709", "bt709"]
    assert frames(work.output("video")).shape == (25, 90, 160)
    assert stats["encoder"] == probe.best(codec).name and stats["frames"] == 25


def test_av1_of_a_tiny_video_uses_an_encoder_that_can(work: Work, photo: Path) -> None:
    params = {"size": "48x32", "duration": 0.4, "frame_rate": 10, "encoding": {"codec": "av1"}}
    stats = run("img2vid", work, params, url_image=photo)
    assert stats["encoder"] == "libaom-av1" and frames(work.output("video")).shape == (4, 32, 48)
    assert "used libaom-av1" in stats["warnings"][0]


@pytest.mark.parametrize("codec", CODECS)
def test_higher_quality_makes_a_larger_file(codec: str, work: Work, photo: Path) -> None:
    sizes = [shot(work, photo, codec=codec, quality=quality)["size_bytes"] for quality in QUALITIES]
    assert sizes == sorted(set(sizes)), sizes
    if codec == "h264":
        assert shot(work, photo)["size_bytes"] == sizes[1], "standard is the default"


# --- the largest size ------------------------------------------------------------------------------------------------

NOISE = "-f lavfi -i nullsrc=size=320x180:rate=25:duration=2,geq=random(1)*255:128:128"
CUE = {"subtitles": "1\n00:00:00,000 --> 00:00:01,000\nA\n"}


@pytest.fixture
def noise(media: Media) -> Path:
    """Two seconds with sound that take 3 MB in standard quality."""
    sound = "-f lavfi -i sine=duration=2 -c:a aac"
    return media.made("noise.mp4", f"{NOISE} {sound} -c:v libx264 -preset ultrafast -crf 10")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "max_bytes"), [("h264", 120_000), slow("hevc", 120_000), *(slow(codec, 400_000) for codec in CODECS)]
)
def test_a_noisy_video_is_made_to_fit(codec: str, max_bytes: int, noise: Path, work: Work) -> None:
    params = {**CUE, "encoding": {"codec": codec, "quality": "best", "max_bytes": max_bytes}}
    stats = run("caption", work, params, url_video=noise)
    assert max_bytes * 0.3 < stats["size_bytes"] <= max_bytes
    assert frame_count(work.output("video")) == 50


def test_a_video_that_fits_anyway_is_not_made_worse(work: Work, photo: Path) -> None:
    sizes = [shot(work, photo, **encoding)["size_bytes"] for encoding in ({"max_bytes": 5_000_000}, {})]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_video_that_cannot_fit_is_refused_before_anything_is_encoded(noise: Path, work: Work) -> None:
    said = r"encoding\.max_bytes.*2\.0 seconds.* 20000 bytes; at least (\d+) are needed"
    with pytest.raises(OutputTooLarge, match=said) as caught:
        run("caption", work, {**CUE, "encoding": {"max_bytes": 20_000}}, url_video=noise)
    assert not work.output("video").exists() and not caught.value.retryable


@pytest.mark.slow
def test_a_video_that_does_not_fit_after_all_is_an_error(noise: Path, work: Work) -> None:
    seen: list[float] = []
    hopeless = {**CUE, "encoding": {"codec": "av1", "max_bytes": 70_000}}
    with pytest.raises(OutputTooLarge, match=r"encoding\.max_bytes.* 70000 bytes"):
        run("caption", replace(work, progress=seen.append), hopeless, url_video=noise)
    assert seen == sorted(seen) and 1.0 not in seen


def test_the_worker_s_own_limit_counts_when_it_is_smaller(noise: Path, work: Work) -> None:
    small = Work(work.directory, Limits(max_output_bytes=300_000))
    with pytest.raises(OutputTooLarge):
        run("caption", small, {**CUE}, url_video=noise)
    stats = run("caption", small, {**CUE, "encoding": {"max_bytes": 4_000_000}}, url_video=noise)
    assert stats["size_bytes"] <= 300_000


def test_a_rate_leaves_room_for_sound_and_tables() -> None:
    assert bitrate.video_rate(1_000_000, 9, 0) == pytest.approx(0.98 * 8_000_000 / 10, rel=0.005)
    assert bitrate.video_rate(1_000_000, 9, 500_000) == pytest.approx(0.98 * 4_000_000 / 10, rel=0.03)


def test_the_bytes_of_a_stream_are_counted(media: Media, work: Work) -> None:
    sound = media.tone(2.0, "mp3")
    whole = bitrate.packet_bytes(sound, 0, work)
    assert 0.8 * sound.stat().st_size < whole <= sound.stat().st_size
    assert bitrate.packet_bytes(sound, 0, work, 1.0) == pytest.approx(whole / 2, rel=0.1)


# --- a video that gets sound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ({}, None),
        ({"codec": "h264"}, None),
        ({"max_bytes": 4_000_000}, None),
        ({"codec": "hevc"}, "hevc"),
        ({"quality": "low"}, "h264"),
        ({"max_bytes": 300_000}, "h264"),
    ],
)
def test_a_video_stream_is_copied_unless_the_encoding_asks_for_more(
    encoding: dict[str, Any], codec: str | None, media: Media, noise: Path, work: Work
) -> None:
    seen: list[float] = []
    watched = replace(work, progress=seen.append)
    stats = run("adicionaAudio", watched, {"encoding": encoding}, url_video=noise, url_audio=media.tone(2.0))
    assert stats["encoder"] == (probe.best(codec).name if codec else "copy")
    assert (
        stream(work.output("video"), "video")["codec_name"] == (codec or "h264")
        and frame_count(work.output("video")) == 50
    )
    assert stats["size_bytes"] <= encoding.get("max_bytes", 10**9)
    assert seen == sorted(seen) and seen[-1] == 1.0 and (codec is None or min(seen) < 1.0)
