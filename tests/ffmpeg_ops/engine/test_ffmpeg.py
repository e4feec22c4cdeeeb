from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, frame_count
from tests.servers import PATIENCE_S, STOP_S, eventually
from wire.envelope import Limits
from wire.errors import Cancelled, EncodeFailed, JobTimeout, OutputTooLarge, WorkerError

X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-f", "mp4", "output-video.mp4"]
ENDLESS = ["-re", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25", *X264]
RAW = ["-f", "rawvideo", "-pix_fmt", "gray", "-video_size", "64x64", "-framerate", "25", "-i", "pipe:0", *X264]
FRAME = bytes(64 * 64)


def short(seconds: float = 1.0) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=size=64x64:rate=25:duration={seconds}", *X264]


def limited(work: Work, **limits: int) -> Work:
    return Work(work.directory, Limits(**{"timeout_s": 30, **limits}), work.stop, work.progress)


def processes_in(directory: Path) -> list[str]:
    """Commands of living processes that work in `directory`."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cwd").readlink() == directory:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def in_background(task: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def target() -> None:
        try:
            task()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=target, daemon=True)  # one that hangs fails its test, not the whole run
    thread.start()
    return thread, raised


# --- what goes well --------------------------------------------------------------------------------------------------


def test_a_command_makes_the_output(work: Work) -> None:
    ffmpeg.encode(short(), work, length_s=1)
    assert frame_count(work.output("video")) == 25


def test_progress_is_a_share_that_never_falls_and_ends_at_one(work: Work) -> None:
    seen: list[float] = []
    slow = ["-re", *short(1.5)]
    ffmpeg.encode(slow, Work(work.directory, progress=seen.append), length_s=1.5)
    assert seen == sorted(seen) and seen[-1] == 1.0
    assert all(0 <= share <= 1 for share in seen)
    assert any(0.05 < share < 0.95 for share in seen)


def test_progress_stays_a_share_when_the_length_was_too_small(work: Work) -> None:
    seen: list[float] = []
    ffmpeg.encode(short(1), Work(work.directory, progress=seen.append), length_s=0.1)
    assert max(seen) == 1.0


def test_frames_are_fed_through_standard_input(work: Work) -> None:
    ffmpeg.encode(RAW, work, length_s=1, feed=(FRAME for _ in range(25)))
    assert frame_count(work.output("video")) == 25


def test_a_feed_that_ffmpeg_does_not_read_to_its_end_is_no_failure(work: Work) -> None:
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield FRAME

    ffmpeg.encode([*RAW[:-3], "-frames:v", "5", *RAW[-3:]], work, length_s=0.2, feed=endless())
    assert frame_count(work.output("video")) == 5 and made < 5000


def test_noisy_standard_error_does_not_block(work: Work) -> None:
    ffmpeg.encode(["-loglevel", "debug", *short(4)], work, length_s=4)


def test_short_commands_answer_what_they_print(work: Work) -> None:
    assert ffmpeg.output_of(["ffprobe", "-version"], work).startswith(b"ffprobe version")


def test_the_version_is_a_number() -> None:
    assert int(ffmpeg.version().lstrip("n").partition(".")[0]) >= 5


def test_nothing_of_the_environment_but_the_path_reaches_the_process(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "secret")
    assert b"secret" not in ffmpeg.output_of(["env"], work)


# --- stopping --------------------------------------------------------------------------------------------------------


def test_a_stop_kills_the_process(work: Work) -> None:
    thread, raised = in_background(lambda: ffmpeg.encode(ENDLESS, work, length_s=60))
    eventually(lambda: any("ffmpeg" in command for command in processes_in(work.directory)))
    work.stop.set(Cancelled())
    thread.join(STOP_S)
    assert isinstance(raised[0], Cancelled)
    assert processes_in(work.directory) == []


def test_a_stop_kills_what_the_process_started_too(work: Work) -> None:
    family = ["sh", "-c", "sleep 30 & sleep 30 & trap '' TERM; wait"]
    thread, raised = in_background(lambda: ffmpeg.output_of(family, work, timeout_s=60) and None)
    eventually(lambda: len(processes_in(work.directory)) >= 3)
    work.stop.set(Cancelled())
    thread.join(STOP_S)
    assert isinstance(raised[0], Cancelled)
    eventually(lambda: processes_in(work.directory) == [])


def test_a_stop_does_not_wait_for_a_feed_that_waits(work: Work) -> None:
    waiting, free = threading.Event(), threading.Event()

    def feed() -> Iterator[bytes]:
        yield FRAME
        waiting.set()
        free.wait(PATIENCE_S)

    thread, raised = in_background(lambda: ffmpeg.encode(RAW, work, length_s=60, feed=feed()))
    assert waiting.wait(PATIENCE_S)
    work.stop.set(Cancelled())
    thread.join(STOP_S)
    alive = thread.is_alive()
    free.set()
    thread.join(STOP_S)
    assert not alive and isinstance(raised[0], Cancelled)


def test_a_stop_ends_a_feed_that_is_written_without_end(work: Work) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield FRAME

    before = threading.active_count()
    thread, raised = in_background(lambda: ffmpeg.encode(["-re", *RAW], work, length_s=60, feed=endless()))
    eventually(lambda: any("ffmpeg" in command for command in processes_in(work.directory)))
    work.stop.set(Cancelled())
    thread.join(STOP_S)
    assert isinstance(raised[0], Cancelled)
    eventually(lambda: threading.active_count() <= before, STOP_S)


def test_work_that_is_already_stopped_makes_nothing(work: Work) -> None:
    work.stop.set(Cancelled())
    with pytest.raises(Cancelled):
        ffmpeg.encode(ENDLESS, work, length_s=60)
    assert processes_in(work.directory) == []


def test_no_threads_or_descriptors_are_left(work: Work) -> None:
    ffmpeg.encode(short(), work, length_s=1)
    threads, descriptors = threading.active_count(), open_files()
    for _ in range(3):
        ffmpeg.encode(short(), work, length_s=1)
    assert threading.active_count() <= threads
    assert open_files() <= descriptors


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_wall_clock_limit_is_a_job_timeout(work: Work) -> None:
    started = time.monotonic()
    with pytest.raises(JobTimeout):
        ffmpeg.encode(ENDLESS, limited(work, timeout_s=1), length_s=60)
    assert time.monotonic() - started >= 1
    assert processes_in(work.directory) == []


def test_a_command_that_burns_the_cpu_meets_the_wall_clock_limit(work: Work) -> None:
    burn = ["-f", "lavfi", "-i", "mandelbrot=size=1280x720", *X264]
    with pytest.raises(JobTimeout):
        ffmpeg.encode(burn, limited(work, timeout_s=1), length_s=60)


def test_a_short_command_has_its_own_limit(work: Work) -> None:
    with pytest.raises(JobTimeout):
        ffmpeg.output_of(["sleep", "300"], work, timeout_s=0.2)
    assert processes_in(work.directory) == []


NOISE = [
    "-f",
    "lavfi",
    "-i",
    "nullsrc=size=320x240:rate=25:duration=4,geq=random(1)*255:128:128",
    "-c:v",
    "rawvideo",
    "-f",
    "avi",
]


def test_an_output_past_the_limit_is_too_large(work: Work) -> None:
    with pytest.raises(OutputTooLarge):
        ffmpeg.encode([*NOISE, "output-video.mp4"], limited(work, max_output_bytes=1_000_000), length_s=4)
    assert work.output("video").stat().st_size <= 1_000_001


def test_an_output_past_the_limit_is_too_large_for_mp4_with_a_second_pass_too(work: Work) -> None:
    with pytest.raises(OutputTooLarge):
        ffmpeg.encode(
            [*short(4)[:-3], "-crf", "0", "-movflags", "+faststart", *X264[-3:]],
            limited(work, max_output_bytes=20_000),
            length_s=4,
        )


def test_an_output_of_exactly_the_limit_is_fine(work: Work) -> None:
    copy = [
        "-f",
        "lavfi",
        "-i",
        "color=size=64x64:duration=1:rate=5",
        "-c:v",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-f",
        "rawvideo",
        "output-video.mp4",
    ]
    ffmpeg.encode(copy, limited(work, max_output_bytes=5 * 64 * 64), length_s=1)
    assert work.output("video").stat().st_size == 5 * 64 * 64
    with pytest.raises(OutputTooLarge):
        ffmpeg.encode(copy, limited(work, max_output_bytes=5 * 64 * 64 - 1), length_s=1)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_failing_command_tells_the_log_and_not_the_client(work: Work) -> None:
    with pytest.raises(EncodeFailed) as caught:
        ffmpeg.encode(["-i", "missing-file.mp4", *X264], work, length_s=1)
    assert "missing-file.mp4" in (caught.value.detail or "")
    assert caught.value.message == EncodeFailed.text


def test_the_end_of_a_long_complaint_is_kept(work: Work) -> None:
    with pytest.raises(EncodeFailed) as caught:
        ffmpeg.output_of(["sh", "-c", "seq 100000 >&2; echo last words >&2; exit 1"], work)
    assert (caught.value.detail or "").endswith("last words")
    assert len(caught.value.detail or "") < 10_000


def test_success_without_an_output_is_a_failure(work: Work) -> None:
    with pytest.raises(EncodeFailed):
        ffmpeg.encode(["-f", "lavfi", "-i", "color=duration=0.1", "-f", "null", "-"], work, length_s=1)


def test_a_killed_process_says_nothing_about_its_input(work: Work) -> None:
    with pytest.raises(WorkerError):
        ffmpeg.output_of(["sh", "-c", "kill -SEGV $$"], work)


def test_a_feed_that_raises_fails_the_encode(work: Work) -> None:
    def feed() -> Iterator[bytes]:
        yield from [FRAME] * 5
        raise RuntimeError("the well is dry")

    seen: list[float] = []
    with pytest.raises(EncodeFailed) as caught:
        ffmpeg.encode(RAW, Work(work.directory, progress=seen.append), length_s=1, feed=feed())
    assert 1.0 not in seen
    assert "the well is dry" in (caught.value.detail or "")
    assert "the well" not in caught.value.message


def test_a_tool_that_is_not_installed_is_the_worker_s_fault(work: Work) -> None:
    with pytest.raises(WorkerError, match="ffsomething"):
        ffmpeg.output_of(["ffsomething"], work)


def test_a_word_of_the_client_is_never_a_command(work: Work, media: Media) -> None:
    path = work.directory / "; touch owned; $(touch owned) `touch owned`.mp4"
    path.write_bytes(media.video().read_bytes())
    ffmpeg.encode(["-i", str(path), *X264], work, length_s=1)
    assert not (work.directory / "owned").exists()


@pytest.mark.parametrize(
    ("told", "new"),
    [("5.1.9-0+deb12u1", False), ("6.0", True), ("7.1.5-0+deb13u1", True), ("n7.1", True), ("N-117-gabcdef", True)],
)
def test_the_release_is_read_from_what_builds_call_themselves(
    told: str, new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "version", lambda: told)
    assert ffmpeg.is_from.__wrapped__(6) is new


# --- what counts as damage -------------------------------------------------------------------------------------------

DECODERS = [  # in the forms of 5.1 and of 7.1
    "[h264 @ 0x55e68d48ad80] [error] error while decoding MB 2 5, bytestream -19",
    "[hevc @ 0x5610e0fa5340] [error] Error splitting the input into NAL units.",
    "[mpeg2video @ 0x55a8350d3680] [error] Warning MVs not available",
    "[mp3float @ 0x5611476760c0] [error] Header missing",
    "[aac @ 0x55dd25dc2840] [error] decode_pce: Input buffer exhausted before END element found",
    "[ac3 @ 0x55e858f4e900] [error] exponent -2 is out-of-range",
    "[ogg @ 0x564d30fa8980] [error] CRC mismatch!",
    "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55b0a52c0a00] [error] stream 0, offset 0x30: partial file",
    "[error] Error while decoding stream #1:0: Invalid data found when processing input",
    "[vist#0:0/hevc @ 0x5610e0d5ec40] [dec:hevc @ 0x5610e0d83400] [error] Error submitting packet to decoder: Invalid data",
    "[aist#0:0/flac @ 0x55d09e6ba100] [dec:flac @ 0x55d09e6b5ac0] [error] Decoding error: Invalid data found",
    "[in#0/mov,mp4,m4a,3gp,3g2,mj2 @ 0x5581c0c4a600] [error] Error during demuxing: Invalid data found",
    "[in#0 @ 0x55a54ee6ae00] [error] Error opening input: Invalid data found when processing input",
    "[h264 @ 0x55e68d48ad80] [fatal] no frame!",
]
OTHERS = [
    "[aac @ 0x55b6940c1d80] [error] Input contains (near) NaN/+-Inf",
    "[error] Error submitting audio frame to the encoder",
    "[aost#0:0/aac @ 0x55d901379180] [error] Error submitting audio frame to the encoder",
    "Svt[error]: Instance 1: Source Width must be at least 64",
    "x265 [error]: the bitrate is too low",
    "[libsvtav1 @ 0x55a5cc85e980] [error] Error setting encoder parameters: bad parameter (0x80001005)",
    "[libx264 @ 0x558b3ee0c6c0] [error] b-pyramid normal + refs 1 is not supported",
    "[libx265 @ 0x55c766cb0040] [error] Image size is too small (8x8).",
    "[libaom-av1 @ 0x5574bdecb440] [error]   Additional information: Cannot find aom option foo",
    "[h264_nvenc @ 0x55f822f26400] [error] Cannot load libcuda.so.1",
    "[vost#0:0/libx265 @ 0x55b8092f4300] [error] Could not open encoder before EOF",
    "[vf#0:0 @ 0x55b8092f4b00] [error] Task finished with error code: -22 (Invalid argument)",
    "[out#0/mp4 @ 0x5581c0c4a600] [error] Error writing trailer: No space left on device",
    "[mp4 @ 0x557074c77300] [error] Application provided invalid, non monotonically increasing dts to muxer in stream 0",
    "[error] av_interleaved_write_frame(): Invalid data found when processing input",
    "[in#0 @ 0x563c848a8480] [error] Error opening input: No such file or directory",
    "[in#0 @ 0x55a919e87e00] [error] Error opening input: Permission denied",
    "[Parsed_ass_0 @ 0x55cf9a1c1d40] [error] Neither PlayResX nor PlayResY defined.",
    "[h264 @ 0x55e68d48ad80] [warning] error while decoding MB 2 5, which is hidden",
    "[mp3 @ 0x56547fa80a80] [warning] Estimating duration from bitrate, this may be inaccurate",
    "",
]


@pytest.mark.parametrize("line", DECODERS)
def test_what_a_decoder_or_a_demuxer_calls_an_error_is_damage(line: str) -> None:
    assert ffmpeg.is_decode_error(line)


@pytest.mark.parametrize("line", OTHERS)
def test_what_encoders_muxers_and_filters_say_is_none(line: str) -> None:
    assert not ffmpeg.is_decode_error(line)
