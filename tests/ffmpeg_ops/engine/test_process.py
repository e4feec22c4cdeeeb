from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ffmpeg_ops.engine import ffmpeg, process
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, VideoWork
from tests.native import compile_library, needs_gcc
from tests.servers import PATIENCE_S, STOP_S, eventually
from wire.envelope import Limits
from wire.errors import AssetInvalid, Cancelled, EncodeFailed, JobTimeout, WorkerError

X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-f", "mp4", "output-video.mp4"]
ENDLESS = ["-re", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25", *X264]
RAW = [*["-f", "rawvideo", "-pix_fmt", "gray", "-video_size", "64x64", "-framerate", "25", "-i", "pipe:0"], *X264]
FRAME = bytes(64 * 64)


def processes_in(directory: Path) -> list[str]:
    """Commands of living processes that work in `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def stopped(work: Work, task: Callable[[], object], begun: Callable[[], bool]) -> None:
    """Stop `task` once it has `begun`, and see that it ends with the reason of the stop."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            task()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=target, daemon=True)  # one that hangs fails its test, not the whole run
    thread.start()
    eventually(begun)
    work.stop.set(Cancelled())
    thread.join(STOP_S)
    assert not thread.is_alive() and isinstance(raised[0], Cancelled)


def test_a_command_returns_what_it_prints(work: Work) -> None:
    assert process.output_of(["ffprobe", "-version"], work).startswith(b"ffprobe version")
    assert process.output_outside_job(["echo", "outside"]) == "outside"


def test_only_the_path_of_the_environment_reaches_the_process(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "secret")
    assert b"secret" not in process.output_of(["env"], work)


LOADED = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
__attribute__((constructor)) static void note(void) {
    FILE *file = fopen("loaded-into", "a");
    fprintf(file, "%s\n", program_invocation_short_name);
    fclose(file);
}
"""


@needs_gcc
def test_a_preloaded_library_reaches_ffmpeg_and_no_other_program(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launchers of FFmpeg's process, setpriv and prlimit, which it then replaces, load it too."""
    monkeypatch.setattr(process, "_preloaded", None)
    source, loaded_into = tmp_path / "loaded.c", work.directory / "loaded-into"
    source.write_text(LOADED)
    process.preload(compile_library(source, tmp_path / "loaded.so"))
    process.output_of(["ffprobe", "-version"], work)
    assert b"LD_PRELOAD" not in process.output_of(["env"], work)
    assert "LD_PRELOAD" not in os.environ and not loaded_into.exists()
    process.output_of(["ffmpeg", "-version"], work)
    programs = loaded_into.read_text().split()
    assert programs[-1] == "ffmpeg" and set(programs) <= {"setpriv", "prlimit", "ffmpeg"}


# --- stopping --------------------------------------------------------------------------------------------------------


def test_a_stop_kills_what_the_process_started_too(work: Work) -> None:
    family = ["sh", "-c", "sleep 30 & sleep 30 & trap '' TERM; wait"]
    stopped(work, lambda: process.output_of(family, work, timeout_s=60), lambda: len(processes_in(work.directory)) >= 3)
    eventually(lambda: processes_in(work.directory) == [])


def test_a_process_that_cannot_be_killed_is_left(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits in the kernel for a GPU that has died."""
    left: list[int] = []
    kill = os.killpg
    monkeypatch.setattr(process, "_KILL_S", 0.1)
    monkeypatch.setattr(process.os, "killpg", lambda group, number: left.append(group))
    try:
        with pytest.raises(JobTimeout):
            process.output_of(["sleep", str(PATIENCE_S)], work, timeout_s=0.1)
        assert processes_in(work.directory), "its end was not waited for"
    finally:
        for group in set(left):  # it is tried more than once
            kill(group, signal.SIGKILL)


def test_a_stop_does_not_wait_for_a_feed_that_waits(work: Work) -> None:
    waiting, free = threading.Event(), threading.Event()

    def feed() -> Iterator[bytes]:
        yield FRAME
        waiting.set()
        free.wait(PATIENCE_S)

    try:
        stopped(work, lambda: ffmpeg.encode(RAW, work, length_s=60, feed=feed()), waiting.is_set)
    finally:
        free.set()


def test_a_stop_ends_ffmpeg_and_an_endless_feed(work: Work) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield FRAME

    before = threading.active_count()
    stopped(
        work,
        lambda: ffmpeg.encode(["-re", *RAW], work, length_s=60, feed=endless()),
        lambda: any("ffmpeg" in command for command in processes_in(work.directory)),
    )
    assert processes_in(work.directory) == []
    eventually(lambda: threading.active_count() <= before, STOP_S)


def test_work_that_is_already_stopped_makes_nothing(work: Work) -> None:
    work.stop.set(Cancelled())
    with pytest.raises(Cancelled):
        ffmpeg.encode(ENDLESS, work, length_s=60)
    assert processes_in(work.directory) == []


def test_no_threads_or_descriptors_are_left(work: Work) -> None:
    process.output_of(["true"], work)
    threads, descriptors = threading.active_count(), open_files()
    for _ in range(3):
        process.output_of(["true"], work)
    assert threading.active_count() <= threads
    assert open_files() <= descriptors


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["-re -f lavfi -i testsrc2=size=64x64", "-f lavfi -i mandelbrot=size=1280x720"])
def test_an_idle_and_a_busy_command_meet_the_time_limit(source: str, work: Work) -> None:
    started = time.monotonic()
    with pytest.raises(JobTimeout):
        ffmpeg.encode([*source.split(), *X264], Work(work.directory, Limits(timeout_s=1)), length_s=60)
    assert time.monotonic() - started >= 1
    assert processes_in(work.directory) == []


def test_a_short_command_has_its_own_limit(work: Work) -> None:
    with pytest.raises(JobTimeout):
        process.output_of(["sleep", "300"], work, timeout_s=0.2)
    assert processes_in(work.directory) == []


def test_a_process_really_runs_under_its_limits(work: Work) -> None:
    said = process.output_of(["cat", "/proc/self/limits"], work, timeout_s=7).decode()
    rows = {line[:25].strip(): line[25:].split()[0] for line in said.splitlines()}
    assert rows["Max cpu time"] == str(7 * (os.cpu_count() or 1))
    assert rows["Max file size"] == "16000000"


def test_too_much_output_is_an_error(work: Work) -> None:
    with pytest.raises(EncodeFailed) as caught:
        process.output_of(["sh", "-c", f"yes {'x' * 100} | head -c 20000000"], work)
    assert "2000000" in (caught.value.detail or "")


def test_a_line_without_end_comes_in_pieces(work: Work) -> None:
    sizes: list[int] = []
    process.each_line_of(["head", "-c", "1000000", "/dev/zero"], work, lambda line: sizes.append(len(line)))
    assert sum(sizes) == 1_000_000 and max(sizes) <= 64_000


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_the_end_of_a_long_complaint_is_kept(work: Work) -> None:
    with pytest.raises(EncodeFailed) as caught:
        process.output_of(["sh", "-c", "seq 100000 >&2; echo last words >&2; exit 1"], work)
    assert (caught.value.detail or "").endswith("last words")
    assert len(caught.value.detail or "") < 10_000


@pytest.mark.parametrize("command", [["sh", "-c", "kill -SEGV 0"], ["ffsomething"]], ids=["killed", "missing"])
def test_a_killed_or_missing_command_is_the_worker_s_fault(command: list[str], work: Work) -> None:
    with pytest.raises(WorkerError):
        process.output_of(command, work)


def test_a_feed_that_raises_fails_the_encode(work: VideoWork) -> None:
    def feed() -> Iterator[bytes]:
        yield from [FRAME] * 5
        raise RuntimeError("the well is dry")

    with pytest.raises(EncodeFailed) as caught:
        ffmpeg.encode(RAW, work, length_s=1, feed=feed())
    assert 1.0 not in work.shares
    assert "the well is dry" in (caught.value.detail or "")
    assert "the well" not in caught.value.message


def test_a_feed_s_own_error_is_the_encode_s(work: Work) -> None:
    """Even where FFmpeg fails because it got nothing."""

    def feed() -> Iterator[bytes]:
        raise AssetInvalid("url_video: the file is damaged.")
        yield FRAME

    with pytest.raises(AssetInvalid, match="url_video: the file is damaged"):
        ffmpeg.encode(RAW, work, length_s=1, feed=feed())


def test_a_value_error_of_the_feed_is_no_end_of_the_command(work: Work) -> None:
    def feed() -> Iterator[bytes]:
        yield FRAME
        raise ValueError("a bug")

    with pytest.raises(EncodeFailed) as caught:
        ffmpeg.encode(RAW, work, length_s=1, feed=feed())
    assert "a bug" in (caught.value.detail or "")


@pytest.mark.parametrize("ended_by", ["stop", "command"])
def test_the_commands_of_a_feed_end_with_the_command_that_is_fed(ended_by: str, work: Work) -> None:
    def feed() -> Iterator[bytes]:
        with process.read(["yes"], work, block_bytes=len(FRAME), timeout_s=60) as blocks:
            yield from blocks

    def encode() -> None:
        limit = ["-frames:v", "3"] if ended_by == "command" else []
        ffmpeg.encode(["-re", *RAW[:-1], *limit, RAW[-1]], work, length_s=60, feed=feed())

    if ended_by == "stop":
        stopped(work, encode, lambda: any("yes" in command for command in processes_in(work.directory)))
    else:
        encode()
    assert processes_in(work.directory) == [] and work.processes == set()


def test_text_of_the_client_is_never_a_command(work: Work, media: Media) -> None:
    path = work.directory / "; touch owned; $(touch owned) `touch owned`.mp4"
    path.write_bytes(media.video().read_bytes())
    ffmpeg.encode(["-i", str(path), *X264], work, length_s=1)
    assert not (work.directory / "owned").exists()


# --- read ------------------------------------------------------------------------------------------------------------


def test_binary_output_comes_in_whole_blocks(work: Work) -> None:
    command = ["sh", "-c", "head -c 1000 /dev/zero; sleep 0.05; head -c 1500 /dev/zero; printf '\\r\\n\\377'"]
    with process.read(command, work, block_bytes=1001, timeout_s=30) as blocks:
        found = list(blocks)
    assert [len(block) for block in found] == [1001, 1001, 501]
    assert b"".join(found) == bytes(2500) + b"\r\n\xff"


def test_a_command_waits_for_a_slow_reader_and_is_killed_when_it_leaves(work: Work) -> None:
    endless = ["sh", "-c", "while head -c 1000000 /dev/zero; do echo >> written; done"]
    with process.read(endless, work, block_bytes=1_000_000, timeout_s=30) as blocks:
        next(blocks)
        written = work.directory / "written"
        eventually(lambda: written.exists())
        time.sleep(0.3)  # it would write gigabytes meanwhile
        assert len(written.read_text()) < 10
        assert processes_in(work.directory)
    assert processes_in(work.directory) == []
    with pytest.raises(ValueError):
        list(blocks)


def test_a_stop_ends_a_read_that_waits(work: Work) -> None:
    def task() -> None:
        with process.read(["sleep", str(PATIENCE_S)], work, block_bytes=1, timeout_s=PATIENCE_S) as blocks:
            next(blocks)

    stopped(work, task, lambda: processes_in(work.directory) != [])
    assert processes_in(work.directory) == []


def test_a_read_has_a_time_limit_even_for_a_slow_reader(work: Work) -> None:
    with process.read(["sleep", "300"], work, block_bytes=1, timeout_s=0.2) as blocks, pytest.raises(JobTimeout):
        next(blocks)
    with process.read(["cat", "/dev/zero"], work, block_bytes=1, timeout_s=0.2) as blocks, pytest.raises(JobTimeout):
        for _ in blocks:
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("script", "error"), [("echo oops >&2; exit 3", EncodeFailed), ("kill -SEGV 0", WorkerError)], ids=["fails", "dies"]
)
def test_a_read_ends_with_what_went_wrong(script: str, error: type[Exception], work: Work) -> None:
    lines: list[str] = []
    found: list[bytes] = []
    command = ["sh", "-c", f"printf 12345; {script}"]
    reading = process.read(command, work, block_bytes=2, timeout_s=30, on_error=lines.append)
    with reading as blocks, pytest.raises(error):
        found.extend(blocks)
    assert found == [b"12", b"34", b"5"]
    assert lines == (["oops"] if error is EncodeFailed else [])


def test_a_read_is_confined_and_leaves_nothing(work: Work, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for _ in range(2):
        threads, descriptors = threading.active_count(), open_files()
        reading = process.read(["cat", str(tmp_path / "secret")], work, block_bytes=9, timeout_s=30)
        with reading as blocks, pytest.raises(EncodeFailed):
            next(blocks)
        with process.read(["cat", "/dev/zero"], work, block_bytes=9, timeout_s=30) as blocks:
            next(blocks)
    assert threading.active_count() <= threads
    assert open_files() <= descriptors
