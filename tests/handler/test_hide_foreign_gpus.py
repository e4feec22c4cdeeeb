"""The library that hides the host's other GPUs from FFmpeg, and the setting that enables it.

No test here has a GPU: the library talks to a stand-in for the driver's resource manager (resource_manager.c).
"""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from common.settings import read
from ffmpeg_ops.engine import process, sandbox
from handler import hide_foreign_gpus, http_worker
from handler.settings import Settings
from tests.conftest import ROOT
from tests.native import compile_library, needs_gcc

# Asks the resource manager as the driver's library does: reads calls as JSON, prints what each returned.
CLIENT = r"""
import ctypes, json, os, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]

class Control(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("client", "object", "command", "flags")]
    _fields_ += [("ids", ctypes.c_void_p), ("size", ctypes.c_uint32), ("status", ctypes.c_uint32)]

def ask(command=0x201, device="/dev/zero", request=0xC020462A, size=256, ids=True):
    fd = os.open(device, os.O_RDONLY)
    table = (ctypes.c_uint32 * 64)()
    control = Control(1, 1, command, 0, ctypes.addressof(table) if ids else None, size, 0)
    ctypes.set_errno(0)
    result = libc.ioctl(fd, request, ctypes.byref(control))
    errno = ctypes.get_errno()
    os.close(fd)
    return {"result": result, "errno": errno, "status": control.status, "ids": list(table[:32]), "after": list(table[32:])}

def ask_often(call, times, answers):
    for _ in range(times):
        answers.add(json.dumps(ask(**call)))

call = json.loads(sys.argv[1])
times, count = call.pop("times", 1), call.pop("threads", 1)
answers = set()
threads = [threading.Thread(target=ask_often, args=(call, times, answers)) for _ in range(count)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps([json.loads(answer) for answer in answers]))
"""
NO_GPU = 0xFFFFFFFF
CONTROL, INVALID_STATUS = 0xC020462A, 0x1F
ATTACHED, PROBED, GET_ID_INFO = 0x201, 0x214, 0x202

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("libraries")
    shim = compile_library(ROOT / "handler/hide_foreign_gpus.c", folder / "hide_foreign_gpus.so")
    stand_in = compile_library(Path(__file__).parent / "resource_manager.c", folder / "resource_manager.so")
    return f"{shim}:{stand_in}"


@pytest.fixture
def ask(libraries: str) -> Ask:
    """Make a call in a container of a host with four GPUs that may open those in `can_open`."""

    def run(can_open: str, environment: dict[str, str] | None = None, **call: Any) -> dict[str, Any]:
        variables = {"PATH": os.environ["PATH"], "GPUS": "4", "OPEN": can_open, "LD_PRELOAD": libraries}
        command = [sys.executable, "-c", CLIENT, json.dumps(call)]
        done = subprocess.run(command, env=variables | (environment or {}), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        (answer,) = json.loads(done.stdout)  # one answer, however often it was asked
        return dict(answer)

    return run


def listed(answer: dict[str, Any]) -> list[int]:
    """The ids in a list, which is filled up with NO_GPU."""
    ids = [number for number in answer["ids"] if number != NO_GPU]
    assert answer["ids"] == ids + [NO_GPU] * (32 - len(ids))
    return ids


ALL = [0x100, 0x200, 0x300, 0x400]


@needs_gcc
@pytest.mark.parametrize("command", [ATTACHED, PROBED])
@pytest.mark.parametrize(
    ("can_open", "ids"),
    [("3", [0x300]), ("1", [0x100]), ("4", [0x400]), ("42", [0x200, 0x400]), ("1234", ALL), ("", ALL)],
    ids=["third", "first", "last", "two", "all", "none"],
)
def test_gpus_that_cannot_be_opened_are_hidden_unless_all_would_be(
    command: int, can_open: str, ids: list[int], ask: Ask
) -> None:
    answer = ask(can_open, command=command)
    assert listed(answer) == ids
    assert (answer["result"], answer["status"], answer["errno"]) == (0, 0, 0)


@needs_gcc
def test_the_list_of_excluded_gpus_behind_the_probed_ones_is_left_alone(ask: Ask) -> None:
    assert set(ask("3", command=PROBED)["after"]) == {0xAAAAAAAA}


@needs_gcc
@pytest.mark.parametrize(
    "call",
    [{"command": GET_ID_INFO}, {"device": "/dev/null"}, {"size": 127}],
    ids=["other command", "other file", "short list"],
)
def test_everything_else_passes_through(call: dict[str, Any], ask: Ask) -> None:
    assert listed(ask("3", **call)) == ALL


@needs_gcc
def test_a_command_without_a_list_does_not_crash(ask: Ask) -> None:
    assert ask("3", ids=False)["result"] == 0


@needs_gcc
@pytest.mark.parametrize("request_code", [0x5413, 0xC0204600, 0xC020002A])
def test_a_request_that_the_kernel_refuses_keeps_its_error(request_code: int, ask: Ask) -> None:
    refused = ask("3", request=request_code, device="/dev/null")
    assert refused["result"] == -1 and refused["errno"] != 0
    assert refused["ids"] == [0] * 32


@needs_gcc
def test_failed_commands_and_unknown_gpus_are_left_alone(ask: Ask) -> None:
    failed = ask("3", {"FAIL": "status"})
    assert (listed(failed), failed["status"]) == (ALL, INVALID_STATUS)
    refused = ask("3", {"FAIL": "call"})
    assert (listed(refused), refused["result"], refused["errno"]) == (ALL, -1, errno.EINVAL)
    not_described = ask("3", {"FAIL": "cards"})
    assert (listed(not_described), not_described["result"], not_described["errno"]) == (ALL, 0, 0)
    assert listed(ask("3", {"UNKNOWN": "1"})) == [0x300, 0x400]


@needs_gcc
def test_threads_do_not_disturb_each_other(ask: Ask) -> None:
    assert listed(ask("3", threads=8, times=100)) == [0x300]


# --- the setting -----------------------------------------------------------------------------------------------------


ON = read(Settings, {"NVENC_HIDE_FOREIGN_GPUS": "true"})


@pytest.fixture(autouse=True)
def nothing_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_preloaded", None)  # and again after the test


def test_it_is_off_by_default() -> None:
    hide_foreign_gpus.configure(read(Settings, {}), library=Path(__file__))
    assert process._preloaded is None


@needs_gcc
def test_ffmpeg_works_with_it(libraries: str, logged: io.StringIO) -> None:
    hide_foreign_gpus.configure(ON, Path(libraries.split(":")[0]))
    assert "preload.enabled" in logged.getvalue()
    assert "libx264" in process.output_outside_job(["ffmpeg", "-hide_banner", "-v", "error", "-encoders"])


def test_a_missing_library_is_logged_and_ffmpeg_runs_without_it(tmp_path: Path, logged: io.StringIO) -> None:
    hide_foreign_gpus.configure(ON, tmp_path / "none.so")
    line = json.loads(logged.getvalue())
    assert (line["event"], line["level"]) == ("preload.skipped", "warning")
    assert "none.so is missing" in line["reason"]
    assert process.output_outside_job(["ffmpeg", "-version"]).startswith("ffmpeg version")


def test_the_image_has_the_library_where_the_worker_looks() -> None:
    dockerfile = (ROOT / "Dockerfile.worker").read_text()
    assert (
        f"COPY --from=compiler /tmp/{hide_foreign_gpus.LIBRARY.name} {hide_foreign_gpus.LIBRARY.parent}/\n"
        in dockerfile
    )


@pytest.mark.usefixtures("logged")
def test_the_http_worker_applies_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m handler` does so too: test_main.py."""
    given = {"SESSION_TOKEN": "t" * 32, "WORKER_API_KEY": "k" * 32, "ALLOWED_IPS": "127.0.0.1"}
    for name, value in {**given, "NVENC_HIDE_FOREIGN_GPUS": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["http_worker"])
    monkeypatch.setattr(sandbox, "hide", lambda: None)
    monkeypatch.setattr(http_worker, "Server", MagicMock())
    http_worker.main()
    assert "preload.skipped" in capsys.readouterr().err
