"""`run`: what a function returns or raises, and that nothing of it is left however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.engine import confined, landlock
from ffmpeg_ops.engine.confined import Crashed, Result
from ffmpeg_ops.engine.zygote import DATA_AT, Returned
from ffmpeg_ops.operation import Work
from tests.conftest import ROOT
from tests.ffmpeg_ops.engine import confined_functions as functions
from tests.handler.support import alive, children
from tests.servers import PATIENCE_S, STOP_S, eventually
from wire.envelope import Limits
from wire.errors import AssetInvalid, Cancelled, JobError, JobTimeout, WorkerError

MB = 1_000_000
Function = Callable[[Mapping[str, Any]], Returned]


def run(function: Function, work: Work, timeout_s: float = PATIENCE_S, **arguments: Any) -> Result:
    return confined.run(
        function, arguments, work, readable=[], timeout_s=timeout_s, memory_bytes=400 * MB, data_bytes=MB
    )


def zygote() -> int:
    return confined.start()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process, thread or descriptor outlives a call."""
    confined.start()
    before, threads, files = set(children(os.getpid())), threading.active_count(), open_files()
    yield
    eventually(lambda: children(zygote()) == [], STOP_S)
    assert len(set(children(os.getpid())) - before) <= 1, "a new zygote"
    eventually(lambda: threading.active_count() <= threads, STOP_S)
    assert open_files() <= files


class Running:
    """A call on a thread of its own, whose child has been started."""

    def __init__(self, work: Work, function: Function, **arguments: Any) -> None:
        self.work, self.raised = work, []  # type: ignore[var-annotated]
        before = set(children(zygote()))
        self._thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self._thread.start()
        eventually(lambda: set(children(zygote())) - before)
        self.children = set(children(zygote())) - before

    def _run(self, function: Function, arguments: Mapping[str, Any]) -> None:
        try:
            self.raised.append(run(function, self.work, **arguments))
        except JobError as error:
            self.raised.append(error)

    def ended(self) -> Any:
        self._thread.join(STOP_S)
        assert not self._thread.is_alive()
        return self.raised[0]


# --- returning -------------------------------------------------------------------------------------------------------


def test_facts_and_data_come_back(work: Work) -> None:
    result = run(functions.echo, work, text="ä", numbers=[1, 2.5], nothing=None)
    assert result == Result({"text": "ä", "numbers": [1, 2.5], "nothing": None}, b"some data")


def test_many_calls_at_once_get_their_own_replies(work: Work) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: run(functions.echo, work, i=i).facts["i"], range(40)))
    assert results == list(range(40))


def test_a_fault_of_the_job_is_raised_with_its_code(work: Work) -> None:
    with pytest.raises(AssetInvalid) as caught:
        run(functions.fail, work, code="asset_invalid")
    assert (caught.value.message, caught.value.detail) == ("what went wrong", "why")


@pytest.mark.parametrize("code", ["superseded", "cancelled", "needs_gpu", "upload_failed", "no_such_code"])
def test_other_errors_of_a_child_are_not_believed(code: str, work: Work) -> None:
    """A hijacked one could end the attempt silently, or have it repeated elsewhere as someone else's fault."""
    said = json.dumps({"error": {"code": code, "message": "m", "detail": None}})
    with pytest.raises(WorkerError):
        run(functions.as_json, work, text=said)


def test_a_bug_is_an_error_of_the_worker_with_its_traceback(work: Work) -> None:
    with pytest.raises(WorkerError) as caught:
        run(functions.break_down, work)
    assert "a bug" in (caught.value.detail or "") and "a bug" not in caught.value.message


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [functions.wait, functions.work_forever])
def test_a_stop_kills_the_child_before_the_call_returns(function: Function, work: Work) -> None:
    call = Running(work, function)
    work.stop.set(Cancelled())
    assert isinstance(call.ended(), Cancelled)
    assert children(zygote()) == []


@pytest.mark.parametrize("function", [functions.wait, functions.work_forever])
def test_a_child_has_a_time_limit(function: Function, work: Work) -> None:
    with pytest.raises(JobTimeout):
        run(function, work, timeout_s=0.5)
    assert children(zygote()) == []


def test_work_that_is_already_stopped_leaves_no_child(work: Work) -> None:
    work.stop.set(Cancelled())
    with pytest.raises(Cancelled):
        run(functions.wait, work)
    assert children(zygote()) == []


def test_a_stop_of_one_job_leaves_the_others_alone(work: Work, tmp_path: Path) -> None:
    stopped, other = Running(Work(tmp_path), functions.wait), Running(work, functions.wait)
    stopped.work.stop.set(Cancelled())
    assert isinstance(stopped.ended(), Cancelled)
    assert other.raised == [] and set(children(zygote())) == other.children
    work.stop.set(Cancelled())
    assert isinstance(other.ended(), Cancelled)


@pytest.mark.parametrize("returns", [True, False])
def test_processes_that_a_child_started_die_with_it(returns: bool, work: Work) -> None:
    """Even those that have left its process group."""
    if returns:
        run(functions.have_children, work, returns=True)
    else:
        call = Running(work, functions.have_children, returns=False)
        (pid,) = call.children
        eventually(lambda: len(children(pid)) == 2)
        work.stop.set(Cancelled())
        assert isinstance(call.ended(), Cancelled)
    eventually(lambda: children(zygote()) == [], STOP_S)


# --- what goes wrong in a child --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE])
def test_a_child_that_crashes_is_told_from_one_that_is_killed(number: signal.Signals, work: Work) -> None:
    with pytest.raises(Crashed) as caught:
        run(functions.die, work, signal=number)
    assert str(-number) in (caught.value.detail or "")


def test_a_child_that_is_killed_is_the_worker_s_fault(work: Work) -> None:
    """As by the kernel, when memory runs out."""
    with pytest.raises(WorkerError) as caught:
        run(functions.die, work, signal=signal.SIGKILL)
    assert not isinstance(caught.value, Crashed)


@pytest.mark.parametrize("status", [0, 1, 255])
def test_a_child_that_exits_by_itself_has_crashed(status: int, work: Work) -> None:
    with pytest.raises(Crashed):
        run(functions.leave, work, status=status)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "00",
        "ffffffff",
        "7fffffff" + "20" * 100,
        "00000002" + b"[]".hex(),
        "00000004" + b"null".hex(),
        "00000002" + b"{}".hex(),
        "0000000d" + b'{"facts": [1]'.hex(),
        "00000009" + b"\xff\xfe{}".hex(),
    ],
)
def test_rubbish_in_place_of_a_reply_is_a_crash(reply: str, work: Work) -> None:
    with pytest.raises(Crashed):
        run(functions.write_reply, work, hex=reply)


@pytest.mark.parametrize(
    "text",
    ['{"facts": 1}', '{"facts": null}', '"facts"', "[" * 30_000, '{"facts": ' + "1" * 9000 + "}", '{"error": 5}'],
)
def test_odd_json_in_place_of_facts_is_an_error(text: str, work: Work) -> None:
    with pytest.raises(WorkerError):
        run(functions.as_json, work, text=text)


def test_a_child_cannot_return_more_data_than_the_caller_allows(work: Work) -> None:
    assert len(run(functions.return_data, work, kilobytes=1000).data) == MB
    with pytest.raises(WorkerError):
        run(functions.return_data, work, kilobytes=1001)
    with pytest.raises(WorkerError):
        run(functions.enlarge_reply, work, bytes=DATA_AT + MB + 1)
    with pytest.raises(WorkerError):
        run(functions.enlarge_reply, work, bytes=2**50)


def test_a_child_gets_no_more_memory_than_the_caller_allows(work: Work) -> None:
    assert run(functions.allocate, work, bytes=200 * MB).facts == {"size": 200 * MB}
    with pytest.raises(WorkerError) as caught:
        run(functions.allocate, work, bytes=500 * MB)
    assert "MemoryError" in (caught.value.detail or "")


def test_a_child_has_limits(work: Work) -> None:
    facts = run(functions.limits, work, timeout_s=7.5).facts
    assert facts["RLIMIT_DATA"] == [400 * MB, 400 * MB]
    assert facts["RLIMIT_CPU"] == [8 * (os.cpu_count() or 1)] * 2
    assert facts["RLIMIT_FSIZE"] == [MB + DATA_AT] * 2
    assert facts["RLIMIT_CORE"] == [0, 0]


# --- what a child can reach ------------------------------------------------------------------------------------------


@pytest.fixture
def got(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a hijacked child gets."""
    monkeypatch.setenv("RUNPOD_API_KEY", "secret")
    own, other = work.directory / "own", tmp_path / "other"
    own.write_text("input")
    other.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = {"input": str(own), "other": str(other), "port": server.getsockname()[1], "worker": os.getpid()}
        result = confined.run(
            functions.look_around,
            arguments,
            work,
            readable=[own],
            timeout_s=PATIENCE_S,
            memory_bytes=400 * MB,
            data_bytes=0,
        )
    assert own.read_text() == "input" and not own.with_name("written").exists()
    return dict(result.facts)


def test_a_child_has_nothing_of_the_worker_s(got: dict[str, Any]) -> None:
    assert got["descriptors"] == [0, 1, 2, functions.REPLY]
    assert "secret" not in json.dumps(got["environment"])
    assert int(got["capabilities"], 16) == 0
    assert got["group"]


def test_a_child_has_no_network_and_reaches_no_other_process_s_memory(got: dict[str, Any]) -> None:
    assert (got["connect"], got["trace the zygote"]) == ("refused", "refused")


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_a_child_reads_its_input_and_nothing_else(got: dict[str, Any]) -> None:
    assert got["own input"] == "'input'"
    names = ("other file", "write", "overwrite", "environment of the zygote")
    assert {name: got[name] for name in names} == dict.fromkeys(names, "refused")


def test_the_zygote_has_one_thread_and_no_capability(work: Work) -> None:
    status = run(functions.loaded, work).facts
    assert status["Threads"] == "1" and int(status["CapEff"], 16) == 0


# --- the zygote ------------------------------------------------------------------------------------------------------


def test_a_zygote_that_has_died_is_replaced(work: Work) -> None:
    for _ in range(3):
        before = zygote()
        os.kill(before, signal.SIGKILL)
        assert run(functions.echo, work, a=1).facts == {"a": 1}
        assert zygote() != before and not alive(before)


def test_a_zygote_that_dies_during_a_call_takes_the_child_along_and_the_call_is_repeated(work: Work) -> None:
    call = Running(work, functions.wait)
    first = call.children
    os.kill(zygote(), signal.SIGKILL)
    eventually(lambda: children(zygote()) not in ([], list(first)))
    eventually(lambda: not any(alive(pid) for pid in first), STOP_S)
    os.kill(zygote(), signal.SIGKILL)
    assert isinstance(call.ended(), WorkerError), "twice is enough"


def test_a_stop_while_the_zygote_does_nothing_kills_both(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "_KILL_S", 0.2)
    call, stuck = Running(work, functions.work_forever), zygote()
    os.kill(stuck, signal.SIGSTOP)
    work.stop.set(Cancelled())
    assert isinstance(call.ended(), Cancelled)
    eventually(lambda: not any(alive(pid) for pid in {stuck, *call.children}), STOP_S)


def test_a_zygote_that_cannot_start_is_an_error_of_the_worker(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    confined._zygotes.discard()
    with monkeypatch.context() as patch:
        patch.setattr(confined, "_environment", lambda: {"PATH": os.defpath})  # does not find our code
        with pytest.raises(WorkerError):
            run(functions.echo, work)
        confined._zygotes.discard()


PROGRAM = """
import sys, threading
from pathlib import Path
from ffmpeg_ops.engine import confined
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine import confined_functions, test_confined
work = Work(Path(sys.argv[1]))
for function in (confined_functions.wait, confined_functions.work_forever):
    threading.Thread(target=test_confined.run, args=(function, work)).start()
confined.start()
print(test_confined.zygote(), flush=True)
threading.Event().wait()
"""


def test_a_worker_that_is_killed_leaves_no_process(work: Work) -> None:
    command = [sys.executable, "-c", PROGRAM, str(work.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as worker:
        assert worker.stdout is not None
        its_zygote = int(worker.stdout.readline())
        eventually(lambda: len(children(its_zygote)) == 2)
        processes = [its_zygote, *children(its_zygote)]
        worker.kill()
        worker.wait()
        eventually(lambda: not any(alive(pid) for pid in processes), STOP_S)


ADOPTING = """
import os, signal, sys, threading
from pathlib import Path
from ffmpeg_ops.engine import confined, orphans
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine import confined_functions, test_confined
from tests.handler.support import children
from tests.servers import eventually
orphans.adopt()
work = Work(Path(sys.argv[1]))
before = set(children(os.getpid()))
call = test_confined.Running(work, confined_functions.have_children, returns=False)
(child,) = call.children
eventually(lambda: len(children(child)) == 2)
os.kill(confined.start(), signal.SIGKILL)
eventually(lambda: set(children(confined.start())) - call.children)  # the call is repeated
work.stop.set(test_confined.Cancelled())
call.ended()
eventually(lambda: set(children(os.getpid())) - before == {confined.start()})
print("alone")
"""


@pytest.mark.slow
def test_a_worker_buries_what_its_killed_zygote_has_left(work: Work) -> None:
    """Its children, and what they had started, become the worker's own, in production."""
    command = [sys.executable, "-c", ADOPTING, str(work.directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "alone\n", done.stderr


def test_a_forked_process_has_a_zygote_of_its_own(work: Work) -> None:
    """Else it would keep the first one's socket open, and with it that zygote."""
    first = zygote()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads, from Python 3.12
        pid = os.fork()
    if pid == 0:
        same = True
        try:
            same = zygote() == first
            confined._zygotes.discard()
        finally:
            os._exit(same)
    assert os.waitpid(pid, 0)[1] == 0
    assert zygote() == first and run(functions.echo, Work(work.directory, Limits()), a=1).facts == {"a": 1}
