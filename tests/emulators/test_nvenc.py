"""The stand-in for NVIDIA's driver, as FFmpeg's own nvenc code finds it."""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ffmpeg_ops.operation import Work
from tests.emulators.nvenc import Driver
from tests.ffmpeg_ops.media import Media, ffmpeg, frame_count, frame_times, frames, psnr, run, stream
from tests.servers import eventually

CODECS = ("h264", "hevc")
slow = partial(pytest.param, marks=pytest.mark.slow)
DEBIAN_13 = [slow("debian-13", codec) for codec in (*CODECS, "av1")]
ON_BOTH = [*(("installed", codec) for codec in CODECS), *DEBIAN_13]
on_both = pytest.mark.parametrize(("nvenc", "codec"), ON_BOTH, indirect=["nvenc"])
B_FRAMES = "-bf 3 -b_ref_mode middle"
OURS = "-preset p4 -tune hq -rc vbr -cq 20 -spatial-aq 1 -temporal-aq 1 -rc-lookahead 20"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return Media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def source(media: Media) -> Path:
    """Thirty frames, each different, without loss."""
    return media.made("source.mkv", "-f lavfi -i testsrc2=size=192x128:rate=25:duration=1.2 -c:v ffv1 -pix_fmt yuv420p")


def command(nvenc: Driver, source: Path, options: str, to: Path | None = None) -> list[str]:
    output = ["-f", "null", "-"] if to is None else ["-y", str(to)]
    log = ["-nostdin", "-hide_banner", "-v", "level+warning"]
    return [f"{nvenc.bin}/ffmpeg", *log, "-i", f"{source}", *options.split(), *output]


def encode(nvenc: Driver, source: Path, options: str, to: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(nvenc, source, options, to), capture_output=True, text=True, timeout=60)


def made(nvenc: Driver, source: Path, options: str, to: Path) -> Path:
    done = encode(nvenc, source, options, to)
    assert (done.returncode, done.stderr) == (0, "")
    return to


def refusal(nvenc: Driver, source: Path, options: str = "-c:v h264_nvenc") -> str:
    """What FFmpeg prints when it fails."""
    done = encode(nvenc, source, options)
    assert done.returncode != 0
    return done.stderr


def types(path: Path) -> str:
    """The types of the frames in the order of display, such as IBBP."""
    shown = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "frame=pict_type", "-of", "csv=p=0"]
    return "".join(char for char in subprocess.check_output([*shown, path], text=True) if char.isalpha())


# --- what comes out --------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("b_frames", [B_FRAMES, "-bf 0"])
def test_every_frame_comes_out_at_its_time_and_looks_like_its_source(
    b_frames: str, codec: str, nvenc: Driver, source: Path, tmp_path: Path
) -> None:
    video = made(nvenc, source, f"-c:v {codec}_nvenc {OURS} {b_frames}", tmp_path / "made.mp4")
    assert frame_times(video) == pytest.approx([n / 25 for n in range(30)], abs=1e-4)
    pairs = zip(frames(video), frames(source), strict=True)
    assert min(psnr(a, b) for a, b in pairs) > 35
    assert stream(video, "video")["codec_name"] == codec
    if codec != "av1":  # made without reordering
        assert ("B" in types(video)) is (b_frames == B_FRAMES)


@on_both
@pytest.mark.parametrize("count", [1, 3])
def test_a_video_shorter_than_the_delay_is_flushed(
    count: int, codec: str, nvenc: Driver, source: Path, tmp_path: Path
) -> None:
    options = f"-frames:v {count} -c:v {codec}_nvenc {OURS} {B_FRAMES}"
    assert frame_count(made(nvenc, source, options, tmp_path / "made.mp4")) == count
    assert nvenc.log[-2:] == [f"eos frames={count}", f"close frames={count}"]


@on_both
def test_a_forced_frame_is_a_start(codec: str, nvenc: Driver, source: Path, tmp_path: Path) -> None:
    options = f"-c:v {codec}_nvenc {OURS} {B_FRAMES} -forced-idr 1 -force_key_frames 0.4,1.0 -g 40"
    video = made(nvenc, source, options, tmp_path / "made.mp4")
    assert [time for time, keyed in keyframes(video) if keyed] == pytest.approx([0, 0.4, 1.0])


def keyframes(path: Path) -> list[tuple[float, bool]]:
    shown = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        "v",
        "-show_entries",
        "packet=pts_time,flags",
        "-of",
        "csv=p=0",
    ]
    rows = [row.split(",") for row in subprocess.check_output([*shown, path], text=True).split()]
    return [(float(time), "K" in flags) for time, flags, *_ in rows]


@pytest.mark.parametrize(("nvenc", "codec"), [("installed", "hevc"), *DEBIAN_13[1:]], indirect=["nvenc"])
def test_ten_bits_stay_ten_bits(codec: str, nvenc: Driver, media: Media, tmp_path: Path) -> None:
    """A ramp with more steps than eight bits have."""
    ramp = "nullsrc=size=640x180:rate=25:duration=0.4,format=yuv420p10le,geq=lum='64+X':cb=400:cr=600"
    deep = media.made("ramp.mkv", f"-f lavfi -i {ramp} -c:v ffv1")
    video = made(nvenc, deep, f"-pix_fmt p010le -c:v {codec}_nvenc -cq 12", tmp_path / "made.mp4")
    assert stream(video, "video")["pix_fmt"] == "yuv420p10le"
    raw = np.frombuffer(ffmpeg("-i", video, "-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-"), np.uint16)
    luma, u, v = np.split(raw[: 640 * 180 * 3 // 2], [640 * 180, 640 * 180 * 5 // 4])
    assert len(np.unique(luma)) > 500
    assert np.abs(luma.reshape(180, 640).mean(axis=0) - 64 - np.arange(640)).max() < 4
    assert (round(u.mean()), round(v.mean())) == (400, 600)


@pytest.mark.parametrize("codec", CODECS)
def test_interleaved_planes_are_taken_apart(codec: str, nvenc: Driver, media: Media, tmp_path: Path) -> None:
    red = media.made("red.mkv", "-f lavfi -i color=red:size=320x180:rate=25:duration=0.2 -c:v ffv1 -pix_fmt yuv420p")
    for layout in ("nv12", "yuv420p"):
        video = made(nvenc, red, f"-pix_fmt {layout} -c:v {codec}_nvenc", tmp_path / f"{layout}.mp4")
        assert np.abs(frames(video, gray=False)[0].reshape(-1, 3).mean(axis=0) - [254, 0, 0]).max() < 4


@pytest.mark.parametrize("codec", CODECS)
def test_parameter_sets_are_in_a_stream_without_a_header(
    codec: str, nvenc: Driver, source: Path, tmp_path: Path
) -> None:
    tags = "-color_primaries bt709 -color_trc bt709 -colorspace bt709 -color_range tv"
    video = made(nvenc, source, f"-c:v {codec}_nvenc {tags} -f {codec}", tmp_path / "made.ts")
    shown = stream(video, "video")
    assert (shown["width"], shown["height"], shown["color_space"]) == (192, 128, "bt709") and frame_count(video) == 30


def test_a_requested_rate_is_kept(nvenc: Driver, source: Path, tmp_path: Path) -> None:
    sizes = [
        made(nvenc, source, f"-c:v h264_nvenc {rate}", tmp_path / "made.mp4").stat().st_size
        for rate in ("-cq 16", "-cq 40", "-cq 16 -maxrate 40k", "-b:v 50k -maxrate 100k -bufsize 100k")
    ]
    assert sizes[0] > 2 * max(sizes[1:]), sizes
    asked = [[row[key] for key in ("cq", "rate", "max", "vbv")] for row in nvenc.encodes]
    assert asked == [row.split() for row in ("16 0 0 0", "40 0 0 0", "16 0 40000 0", "0 50000 100000 100000")]


def test_the_log_has_what_was_asked(nvenc: Driver, source: Path) -> None:
    encode(nvenc, source, f"-c:v h264_nvenc {OURS} {B_FRAMES}")
    wanted = "preset=p4 tuning=1 gop=250 bframes=3 bref=2 cq=20 multipass=0 aq=1:8 taq=1 lookahead=20"
    (asked,) = nvenc.encodes
    assert asked.items() >= dict(word.split("=") for word in wanted.split()).items()
    assert [line.split()[0] for line in nvenc.log] == ["cuInit", "cuCtxCreate", "open", "initialize", "eos", "close"]


def test_the_sandbox_admits_it(nvenc: Driver, media: Media, tmp_path: Path) -> None:
    still = media.made("still.png", "-f lavfi -i testsrc2=size=320x180 -frames:v 1")
    stats = run("img2vid", Work(tmp_path), {"duration": 1, "size": "320x180"}, url_image=still)
    assert (stats["encoder"], stats["device"], frame_count(tmp_path / "output-video.mp4")) == ("h264_nvenc", "gpu", 24)
    assert nvenc.log[-1] == "close frames=24"


# --- chips and drivers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chip", "options", "said"),
    [
        slow("pascal", "-c:v h264_nvenc -bf 4 -b_ref_mode middle -temporal-aq 1", None),
        ("pascal", "-c:v hevc_nvenc -bf 0", None),
        ("pascal", "-c:v hevc_nvenc -bf 3", "Max B-frames 3 exceed 0"),
        ("pascal", "-c:v hevc_nvenc -b_ref_mode middle", "B frames as references are not supported"),
        ("pascal", "-c:v hevc_nvenc -temporal-aq 1", "Temporal AQ not supported"),
        slow("turing", "-c:v hevc_nvenc -bf 5 -b_ref_mode middle -temporal-aq 1", None),
        slow("turing", "-c:v h264_nvenc -bf 3 -b_ref_mode each", "Each B frame as reference is not supported"),
        slow("ampere", "-c:v h264_nvenc -bf 3 -b_ref_mode each", None),
        slow("ada", "-c:v h264_nvenc -bf 5", "Max B-frames 5 exceed 4"),
        ("ada", "-c:v h264_nvenc -pix_fmt p010le", "10 bit encode not supported"),
        ("ada", "-vf scale=4098:2 -c:v h264_nvenc", "Width 4098 exceeds 4096"),
        ("hopper", "-c:v h264_nvenc", "OpenEncodeSessionEx failed: unsupported device (2)"),
    ],
)
def test_a_chip_supports_what_its_driver_reports(
    chip: str, options: str, said: str | None, nvenc: Driver, source: Path
) -> None:
    nvenc.set(chip=chip)
    if said is None:
        assert encode(nvenc, source, options).stderr == ""
    else:
        assert said in refusal(nvenc, source, options)


@pytest.mark.parametrize(
    ("chip", "codec", "smallest"),
    [
        ("ada", "h264", (145, 49)),
        ("ada", "hevc", (129, 33)),
        ("pascal", "h264", (33, 17)),
        ("pascal", "hevc", (65, 33)),
    ],
)
def test_small_pictures_are_refused(
    chip: str, codec: str, smallest: tuple[int, int], nvenc: Driver, source: Path
) -> None:
    nvenc.set(chip=chip)
    width, height = (side + 1 for side in smallest)
    assert encode(nvenc, source, f"-vf scale={width}:{height} -c:v {codec}_nvenc -bf 0").returncode == 0
    for size in (f"{width - 2}:{height}", f"{width}:{height - 2}"):
        said = refusal(nvenc, source, f"-vf scale={size} -c:v {codec}_nvenc -bf 0")
        assert "InitializeEncoder failed: invalid param (8): Frame Dimension less than the minimum" in said
    nvenc.set(min_width=2, min_height=2)
    assert encode(nvenc, source, f"-vf scale=16:16 -c:v {codec}_nvenc -bf 0").returncode == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": 0}, "cuInit(0) failed -> CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"),
        ({"cu_init": 999}, "cuInit(0) failed -> CUDA_ERROR_UNKNOWN: unknown error"),
        ({"cu_ctx_create": 2}, "cuCtxCreate(&ctx->cu_context_internal, 0, cu_device) failed -> CUDA_ERROR_OUT_OF_MEMORY"),
        ({"api_version": 10.0}, "Driver does not support the required nvenc API version."),
        ({"open_error": 2, "devices": 4}, "No capable devices found"),
        ({"sessions": 0}, "OpenEncodeSessionEx failed: out of memory (10): (no details)"),
        ({"sessions": 0, "refusal": 21}, "OpenEncodeSessionEx failed: incompatible client key (21): (no details)"),
        ({"frame_fails": 25}, "EncodePicture failed!: generic error (20): EncodeAPI Internal Error."),
    ],
)  # fmt: skip
def test_ffmpeg_prints_why_it_cannot_encode(settings: dict[str, float], said: str, nvenc: Driver, source: Path) -> None:
    nvenc.set(**settings)
    assert said in refusal(nvenc, source)


@pytest.mark.parametrize("wrong", [{"open_crashes": 1}, {"frame_crashes": 20}])
def test_a_driver_can_crash(wrong: dict[str, int], nvenc: Driver, source: Path) -> None:
    nvenc.set(**wrong)
    done = encode(nvenc, source, "-c:v h264_nvenc")
    assert done.returncode in {-signal.SIGSEGV, 128 + signal.SIGSEGV}


@pytest.mark.parametrize("wrong", [{"open_hangs": 1}, {"frame_hangs": 20}])
def test_a_driver_can_hang_and_a_dead_process_frees_its_session(
    wrong: dict[str, int], nvenc: Driver, source: Path
) -> None:
    nvenc.set(**wrong, sessions=1)
    with subprocess.Popen(command(nvenc, source, "-c:v h264_nvenc")) as hung:
        eventually(lambda: f"fault {next(iter(wrong))}" in nvenc.log)
        assert hung.poll() is None
        nvenc.set(open_hangs=0, frame_hangs=-1)
        if "frame_hangs" in wrong:
            assert "out of memory (10)" in refusal(nvenc, source)
        hung.kill()
    assert encode(nvenc, source, "-c:v h264_nvenc").returncode == 0


def test_other_processes_can_hold_sessions(nvenc: Driver, source: Path) -> None:
    nvenc.set(sessions=2)
    with nvenc.occupied(2):
        assert "out of memory (10)" in refusal(nvenc, source)
    with nvenc.occupied(1):
        assert encode(nvenc, source, "-c:v h264_nvenc").returncode == 0


def test_faults_can_end(nvenc: Driver, source: Path) -> None:
    nvenc.set(cu_init=999, faults=2)
    assert [encode(nvenc, source, "-c:v h264_nvenc").returncode == 0 for _ in range(3)] == [False, False, True]


def test_encodes_can_be_slow(nvenc: Driver, source: Path) -> None:
    nvenc.set(frame_rate=1)
    with subprocess.Popen(command(nvenc, source, "-c:v h264_nvenc")) as process:
        eventually(lambda: bool(nvenc.encodes))
        nvenc.set(frame_rate=0)
        assert encode(nvenc, source, "-c:v h264_nvenc").returncode == 0
        assert process.poll() is None, "thirty frames take half a minute"
        process.kill()


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("chpi = ada", "line 1: unknown setting: chpi"),
        ("devices = two", "line 1: not a number: two"),
        ("devices", "line 1: not `name = value`: devices"),
        ("chip = kepler", "unknown chip: kepler"),
        ("log = none", "the log cannot be written"),
    ],
)
def test_a_mistake_in_the_settings_ends_ffmpeg(line: str, said: str, nvenc: Driver, source: Path) -> None:
    (nvenc.bin.parent / "lib" / "nvenc.conf").write_text(f"{line}\n")
    done = encode(nvenc, source, "-c:v h264_nvenc")
    assert done.returncode == 97 and said in done.stderr


def test_a_misspelt_setting_is_refused_at_once(nvenc: Driver) -> None:
    with pytest.raises(TypeError, match=r"no such settings: frame_hang;.* frame_hangs"):
        nvenc.set(frame_hang=3)
