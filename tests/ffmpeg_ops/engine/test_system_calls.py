"""What a hijacked FFmpeg could do to other processes of its user and to the kernel, as root and as user 1000."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.engine import landlock, process, sandbox, system_calls
from ffmpeg_ops.operation import Work
from tests.conftest import ROOT
from tests.ffmpeg_ops.media import VideoWork
from wire.errors import EncodeFailed

PROGRAM = Path(__file__).with_name("hostile_calls.py").read_text()
KINDS = ("processes", "links", "files", "shared", "kernel", "architectures")
REFUSALS = {"EPERM", "EACCES", "ENOSYS"}
USER = 1000

needs_seccomp = pytest.mark.skipif(system_calls.unavailable() is not None, reason=f"{system_calls.unavailable()}")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# A worker that becomes user 1000 once it has loaded everything: that user may not be able to read this Python.
WORKER = """
import json, os, sys
from pathlib import Path
from ffmpeg_ops.engine import process, sandbox
from ffmpeg_ops.operation import Work
assert not sandbox.gaps()
os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
sandbox.hide()
given = json.loads(sys.stdin.read())
given["worker"] = os.getpid()
command = [word if word != "GIVEN" else json.dumps(given) for word in sys.argv[2:]]
print(process.output_of(command, Work(Path(sys.argv[1]))).decode())
"""


@contextmanager
def targets(owner: int, *, spared: bool = True) -> Iterator[dict[str, Any]]:
    """A process, a file and shared memory of a user, who can reach them; `spared`: the file is unchanged afterwards."""
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "others" / "file"
        file.parent.mkdir()
        file.write_text("another job's")
        file.chmod(0o640)
        for path in (Path(folder), file.parent, file):
            os.chown(path, owner, owner)
        shared = libc.shmget(0, ctypes.c_size_t(4096), 0o666)
        command = ["sleep", "60"]
        if owner != os.geteuid():
            command = ["setpriv", "--reuid", str(owner), "--regid", str(owner), "--clear-groups", "--", *command]
        victim = subprocess.Popen(command, start_new_session=True)
        try:
            yield {"victim": victim.pid, "worker": os.getpid(), "file": str(file), "shared": shared}
            assert victim.poll() is None
            unchanged = file.read_text() == "another job's" and file.stat().st_mode & 0o777 == 0o640
            assert unchanged is spared
        finally:
            libc.shmctl(shared, 0, None)
            victim.kill()
            victim.wait()


def tried(work: Work, given: dict[str, Any], *kinds: str, reduced: str | None = None) -> dict[str, str]:
    """The results of all calls of some kinds, made by the function that starts FFmpeg."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, json.dumps({**given, "kinds": kinds})]
    try:
        return dict(json.loads(process.output_of(command, work, reduced=reduced)))
    except EncodeFailed as error:
        raise AssertionError(error.detail) from error


def allowed(results: dict[str, str]) -> dict[str, str]:
    return {name: result for name, result in results.items() if result not in REFUSALS}


@needs_seccomp
@pytest.mark.parametrize("version", [None, 0, 1, 2, 5])
def test_every_call_is_refused_whatever_landlock_the_kernel_has(
    version: int | None, work: VideoWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version is not None:
        if landlock.version() < version:
            pytest.skip("this kernel has an older one")
        monkeypatch.setattr(landlock, "version", lambda: version)
    with targets(os.geteuid()) as given:
        results = tried(work, given, *KINDS)
    assert len(results) > 70 and allowed(results) == {}


@needs_seccomp
def test_the_reduced_sandbox_protects_processes_and_the_kernel(work: VideoWork) -> None:
    with targets(os.geteuid()) as given:
        results = tried(work, given, "processes", "links", "kernel", "architectures", reduced="a test")
        assert len(results) > 50 and allowed(results) == {}
        shared = tried(work, given, "shared", reduced="a test")
        assert shared["shmat"] == "done", "the driver may need it"


def test_without_the_sandbox_the_same_calls_get_through(work: VideoWork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "confine", lambda directory, readable=(), *, reduced=False: None)
    with targets(os.geteuid(), spared=False) as given:
        results = tried(work, given, "processes", "files", "shared")
    missed = {name for name, result in results.items() if result in REFUSALS}
    # What this kernel, or the container around this test, refuses to everyone.
    assert missed <= {"kcmp", "migrate_pages", "move_pages", "FIOSETOWN", "pidfd_getfd", "process_madvise", "clone3"}
    assert {name for name in results if results[name] == "done"} >= {"prlimit", "chmod", "utime", "truncate", "shmat"}


@needs_seccomp
@as_root
@pytest.mark.slow
def test_user_1000_is_refused_the_same_and_runs_ffmpeg() -> None:
    """As in the worker's image."""
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    if python is None or Path(python).resolve().is_relative_to("/root"):
        pytest.skip("user 1000 has no Python here")
    with tempfile.TemporaryDirectory() as folder, targets(USER) as given:
        Path(folder).chmod(0o755)
        directory = Path(folder) / "attempt"
        directory.mkdir(mode=0o700)
        os.chown(directory, USER, USER)

        def run(*command: str) -> str:
            worker = [sys.executable, "-c", WORKER, str(directory), *command]
            sent = json.dumps({**given, "kinds": KINDS})
            done = subprocess.run(worker, input=sent, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        results = json.loads(run(python, "-I", "-S", "-c", PROGRAM, "GIVEN").splitlines()[-1])
        assert len(results) > 70 and allowed(results) == {}
        source = [
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=320x180:rate=25:duration=1",
            "-f",
            "lavfi",
            "-i",
            "sine=duration=1",
        ]
        run("ffmpeg", "-nostdin", "-v", "error", *source, "-c:v", "libx264", "-c:a", "aac", "made.mp4")
        shown = run("ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", "made.mp4")
        assert shown.split() == ["h264", "aac"]


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE])
def test_a_program_that_aborts_ends_by_a_signal(number: signal.Signals, work: VideoWork) -> None:
    """A refused signal must not make a crash look like an exit."""
    code = {
        signal.SIGABRT: "import os; os.abort()",
        signal.SIGSEGV: "import ctypes; ctypes.string_at(0)",
        signal.SIGFPE: "import os, signal; os.kill(0, signal.SIGFPE)",
    }[number]
    command = [sys.executable, "-I", "-S", "-c", code]
    ended = process.run(command, work, timeout_s=30, file_bytes=1, on_output=print)
    assert ended.status < 0


def test_without_libseccomp_the_sandbox_says_what_it_does_not_hold(
    work: VideoWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package then raises RuntimeError at import."""

    def program(*, reduced: bool) -> system_calls.Program:
        raise system_calls.Unavailable("libseccomp is not installed")

    monkeypatch.setattr(system_calls, "program", program)
    system_calls.unavailable.cache_clear()
    sandbox.gaps.cache_clear()
    try:
        assert any(gap.startswith("libseccomp is not installed: FFmpeg can use the network") for gap in sandbox.gaps())
        assert len(sandbox.warnings()) == 1
        assert process.output_of(["echo", "works"], work) == b"works"
    finally:
        system_calls.unavailable.cache_clear()
        sandbox.gaps.cache_clear()


def test_a_missing_library_is_told_from_other_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)  # an import raises ImportError
    system_calls.program.cache_clear()
    try:
        with pytest.raises(system_calls.Unavailable, match="libseccomp is not installed"):
            system_calls.program(reduced=False)
    finally:
        system_calls.program.cache_clear()
