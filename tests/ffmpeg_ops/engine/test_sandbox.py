"""A hijacked FFmpeg tries to reach other jobs, the worker's secrets and the network."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.engine import ffmpeg, landlock, process, sandbox, system_calls
from tests.conftest import ROOT
from tests.ffmpeg_ops.media import Media, VideoWork, frame_count
from tests.servers import eventually

CANARY = "canary-7d1f0c"
needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

# Tries everything that its argument names, in one process and in a fork that leaves its group, and prints the results.
ATTACK = r"""
import ctypes, json, os, signal, socket, sys
wanted = json.loads(sys.argv[1])
got = {}

def attempt(name, act):
    try:
        answer = act()
    except OSError as error:
        got[name] = f"refused: {error.strerror}"
    else:
        got[name] = repr(answer)

def read(path):
    with open(path, "rb") as file:
        return file.read(100_000)

def call(kind, address):
    one = socket.socket(*kind)
    one.settimeout(2)
    one.connect(address)
    return "connected"

def send(kind, address):
    return socket.socket(*kind).sendto(b"x", address)

def pair(name):
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", address(name))

def symlink(path):
    os.symlink(path, "link")
    try:
        return read("link")
    finally:
        os.remove("link")

def hard(path):
    os.link(path, "hard")
    return read("hard")

def trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    if libc.ptrace(16, pid, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.waitpid(pid, 0x40000000)
    libc.ptrace(17, pid, 0, 0)
    return "attached"

def address(name):
    return name.replace("@", "\0", 1)

inet, inet6, unix = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
stream, dgram = socket.SOCK_STREAM, socket.SOCK_DGRAM
ACTS = {
    "read": {"read": read, "symlink": symlink},
    "link": {"link": hard},
    "list": {"list": os.listdir},
    "write": {"write": lambda path: open(path, "w").write("x")},
    "remove": {"remove": os.remove},
    "signal": {"signal": lambda pid: os.kill(pid, 0)},
    "trace": {"trace": trace},
    "tcp": {
        "tcp": lambda port: call((inet, stream), ("127.0.0.1", port)),
        "udp": lambda port: send((inet, dgram), ("127.0.0.1", port)),
        "tcp6": lambda port: call((inet6, stream), ("::ffff:127.0.0.1", port)),
    },
    "unix": {
        "unix": lambda name: call((unix, stream), address(name)),
        "datagram": lambda name: send((unix, dgram), address(name)),
        "pair": pair,
    },
    "netlink": {"netlink": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).getsockname()},
}

def try_all():
    for kind, values in wanted.items():
        for name, act in ACTS[kind].items():
            for value in values:
                attempt(f"{name} {value}", lambda: act(value))

reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    try_all()
    os.write(writing, json.dumps(got).encode())
    os._exit(0)
os.close(writing)
child = json.loads(b"".join(iter(lambda: os.read(reading, 65536), b"")))
os.wait()
try_all()
print(json.dumps({**got, **{f"{name}, forked": result for name, result in child.items()}}))
"""


def attack(work: VideoWork, **wanted: Any) -> dict[str, str]:
    """The result of each try, made by the function that starts FFmpeg."""
    command = [sys.executable, "-I", "-S", "-c", ATTACK, json.dumps(wanted, default=str)]
    return dict(json.loads(process.output_of(command, work)))


def successes(results: dict[str, str]) -> dict[str, str]:
    return {name: what for name, what in results.items() if not what.startswith("refused: ")}


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "confine", lambda directory, readable=(), *, reduced=False: None)


@pytest.fixture
def no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another job's asset, next to this one's directory."""
    asset = tmp_path / "other" / "asset-url_video"
    asset.parent.mkdir(mode=0o700)
    asset.write_text(CANARY)
    return asset


@pytest.fixture
def hidden() -> Iterator[int]:
    """The pid of a process of this user that was started with a secret and hides it."""
    code = "from ffmpeg_ops.engine import sandbox; sandbox.hide(); print(flush=True); import time; time.sleep(60)"
    environ = {"SECRET": CANARY, "PATH": os.environ["PATH"]}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environ, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Servers of all kinds, as `attack` takes them."""
    tcp = socket.create_server(("127.0.0.1", 0))
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    names = [str(tmp_path / "socket-1"), str(tmp_path / "socket-2"), *(f"\0{CANARY}-{os.getpid()}-{n}" for n in (1, 2))]
    found = [tcp]
    for name, kind in zip(names, kinds * 2, strict=True):
        one = socket.socket(socket.AF_UNIX, kind)
        one.bind(name)
        if kind == socket.SOCK_STREAM:
            one.listen()
        found.append(one)
    yield {"tcp": [tcp.getsockname()[1]], "unix": [name.replace("\0", "@") for name in names], "netlink": [0]}
    for one in found:
        one.close()


def everything(other: Path, hidden: int) -> dict[str, Any]:
    outside = Path(tempfile.gettempdir()) / f"{CANARY}-{os.getpid()}"
    of_processes = [f"/proc/{pid}/{name}" for pid in (os.getpid(), hidden) for name in ("environ", "maps", "fd/1")]
    roots = [f"/proc/{pid}/root{other}" for pid in (os.getpid(), hidden)]
    return {
        "read": [other, f"{other.parent}/../other/asset-url_video", *of_processes, *roots, ROOT / "README.md"],
        "link": [other],
        "list": [other.parent, other.parent.parent, tempfile.gettempdir(), Path.home(), "/"],
        "write": [other, other.parent / "new", other.parent.parent / "new", outside],
        "remove": [other],
        "signal": [os.getpid(), hidden],
        "trace": [hidden],
    }


@needs_landlock
def test_nothing_of_other_jobs_the_worker_or_the_network_is_reached(
    work: VideoWork, other: Path, hidden: int, listening: dict[str, Any]
) -> None:
    results = attack(work, **everything(other, hidden), **listening)
    assert len(results) > 80 and successes(results) == {}
    assert other.read_text() == CANARY and sorted(p.name for p in other.parent.iterdir()) == ["asset-url_video"]
    assert list(work.directory.iterdir()) == []


def test_without_the_sandbox_the_same_tries_succeed(
    work: VideoWork, other: Path, hidden: int, listening: dict[str, Any], no_sandbox: None
) -> None:
    tries = everything(other, hidden)
    got = successes(attack(work, read=[other], list=[other.parent], signal=tries["signal"], **listening))
    assert CANARY in got[f"read {other}"] and f"signal {hidden}" in got
    assert {name.split()[0] for name in got} >= {"tcp", "udp", "unix", "datagram", "pair", "netlink", "list"}


def test_without_landlock_there_is_still_no_network(
    work: VideoWork, listening: dict[str, Any], no_landlock: None
) -> None:
    results = attack(work, **listening)
    assert len(results) > 20 and successes(results) == {}


def test_without_landlock_a_hidden_environment_stays_hidden(work: VideoWork, hidden: int, no_landlock: None) -> None:
    results = attack(work, read=[f"/proc/{hidden}/{name}" for name in ("environ", "maps", "fd/1")], trace=[hidden])
    assert len(results) == 14 and successes(results) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the right to read from others")
def test_a_program_that_cannot_be_read_hides_its_environment(tmp_path: Path) -> None:
    """As tini does, process 1 of the image, which starts with all secrets and cannot hide by itself."""
    unprivileged = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", "-i"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for mode, is_read in ((0o755, True), (0o711, False)):
            tini = Path(folder) / f"tini-{mode}"
            tini.write_bytes(Path("/usr/bin/tail").read_bytes())
            tini.chmod(mode)
            process = subprocess.Popen([*unprivileged, f"SECRET={CANARY}", tini, "-f", "/dev/null"])
            name = Path(f"/proc/{process.pid}/comm")
            eventually(lambda name=name: name.read_text().startswith("tini"))
            said = subprocess.run([*unprivileged, "cat", f"/proc/{process.pid}/environ"], capture_output=True)
            process.kill()
            process.wait()
            assert (CANARY.encode() in said.stdout) is is_read


def test_its_own_files_and_the_system_s_are_accessible(work: VideoWork) -> None:
    (work.directory / "asset").write_text("mine")
    own = work.directory / "new"
    results = attack(work, read=["asset", "/proc/cpuinfo", "/usr/lib/os-release"], write=["made", own], list=["."])
    refused = {name.split()[0] for name, what in results.items() if what.startswith("refused")}
    assert refused == {"symlink"}, "links are not made, whatever they lead to"
    assert own.read_text() == "x"


def test_an_input_elsewhere_is_readable_and_nothing_beside_it(work: VideoWork, media: Media, tmp_path: Path) -> None:
    video = media.video()
    ffmpeg.encode(["-i", str(video), "-c", "copy", "output-video.mp4"], work, length_s=1)
    assert frame_count(work.video) == 25
    beside = tmp_path / "beside"
    beside.write_text(CANARY)
    script = f"cat {video} >/dev/null && echo read; cat {beside} || true"
    printed = process.output_of(["sh", "-c", script, "sh", "-i", str(video)], work)
    assert printed == (b"read" if landlock.version() else f"read\n{CANARY}".encode())


def test_this_process_stays_unconfined(work: VideoWork, other: Path) -> None:
    status = Path("/proc/self/status")
    before = status.read_text().partition("NoNewPrivs:\t")[2][0]  # 1 where the container was started with it
    process.output_of(["true"], work)
    assert other.read_text() == CANARY
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]):
        pass
    assert status.read_text().partition("NoNewPrivs:\t")[2][0] == before


def test_nothing_starts_when_a_restriction_fails(work: VideoWork, monkeypatch: pytest.MonkeyPatch) -> None:
    rejected = system_calls.Program(system_calls.program(reduced=False).loader, ctypes.create_string_buffer(8))
    monkeypatch.setattr(system_calls, "program", lambda *, reduced: rejected)
    with pytest.raises(OSError):
        process.output_of(["touch", "started"], work)
    assert not (work.directory / "started").exists()
