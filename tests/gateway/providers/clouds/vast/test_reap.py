"""The reaper, as cron starts it: by itself, and against every lie of the stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.providers.clouds.vast import reap
from gateway.providers.rental import labels
from tests.conftest import ROOT
from tests.emulators.vast import Config, Emulator, offer

RENTAL = "3eff430b-761d-48cd-bb41-f68a7e7f12e2"
OLD_S = 8 * 3600
Run = Callable[..., int]


@pytest.fixture
def vast() -> Iterator[Emulator]:
    with Emulator(Config(pretend=True, speed=0, spacing={}), [offer(n) for n in range(1, 100)]) as emulator:
        yield emulator


@pytest.fixture
def run(vast: Emulator, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("--all")`: its exit status, in this process."""
    monkeypatch.setenv("VAST_API_KEY", vast.config.api_key)
    monkeypatch.setenv("VAST_API_BASE", vast.url)

    def run(*words: str, deployment: str = "test") -> int:
        return reap.main(["--deployment", deployment, "--pause", "0.01", *words])

    return run


def label(age_s: float = OLD_S, deployment: str = "test") -> str:
    return labels.label(deployment, str(uuid.uuid4()), int(time.time() - age_s))


def rented(vast: Emulator, text: str | None) -> int:
    """A machine with this label, without a call of the API."""
    number = len(vast.instances) + 1
    return vast.account.create(offer(number), label=text, image="acme/worker:1").id


def alive(vast: Emulator) -> list[int]:
    return [instance.id for instance in vast.account.alive()]


# ---- what goes and what stays


def test_what_is_too_old_goes_and_all_else_stays(vast: Emulator, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    old, young = rented(vast, label()), rented(vast, label(age_s=60))
    assert run() == 0
    assert alive(vast) == [young]
    reported = capsys.readouterr().out.splitlines()
    assert len(reported) == 1
    assert reported[0].startswith(f"{old} reelay:test:")
    assert reported[0].endswith("is destroyed")
    assert run() == 0
    assert capsys.readouterr().out == ""  # cron sends no mail about nothing


@pytest.mark.parametrize("similar", [None, f"reelay:test2:{RENTAL}:1600000000", f"reelay:test:{RENTAL}:1600000000\n"])
def test_a_machine_with_a_similar_label_is_left_alone(vast: Emulator, run: Run, similar: str | None) -> None:
    foreign = vast.foreign(similar)
    assert run("--all") == 0
    assert alive(vast) == [foreign]
    assert vast.touched_foreign() == []


def test_the_rule_is_that_of_the_gateway() -> None:
    assert reap.LABEL.pattern == labels._LABEL.pattern


def test_a_label_from_the_future_does_not_keep_a_machine_for_ever(vast: Emulator, run: Run) -> None:
    """The gateway's clock was ahead by a day; Vast.ai knows since when the machine is there."""
    rented(vast, label(age_s=-86_400))
    vast.account.alive()[0].created_at = time.time() - OLD_S
    assert run() == 0
    assert alive(vast) == []


def test_a_dry_run_destroys_nothing(vast: Emulator, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry-run") == 0
    old = rented(vast, label())
    assert run("--dry-run") == 1
    assert alive(vast) == [old]
    assert vast.calls["destroy"] == 0
    assert "(8.0 h, $0.200 an hour) would be destroyed" in capsys.readouterr().out


def test_a_ceiling_and_the_oldest_first(vast: Emulator, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [rented(vast, label(age_s=OLD_S + age)) for age in (10, 4000, 900, 2000)]
    assert run("--limit", "2") == 1
    assert alive(vast) == [ids[0], ids[2]]
    assert capsys.readouterr().out.count("is left: only 2 are destroyed in a run") == 2
    assert run("--limit", "2") == 0
    assert alive(vast) == []


# ---- lies and troubles


def test_many_pages_are_all_read(vast: Emulator, run: Run) -> None:
    foreign = [vast.foreign(f"other {n}") for n in range(60)]
    for _ in range(3):
        rented(vast, label(age_s=0))
    assert run("--all") == 0
    assert alive(vast) == foreign


@pytest.mark.parametrize("behind", [1, 2])
def test_a_listing_that_lags(vast: Emulator, run: Run, behind: int) -> None:
    rented(vast, label())
    vast.configure(list_behind=behind)
    for _ in range(2):
        assert run() == 0
    assert alive(vast) == []


@pytest.mark.parametrize("kind", ["empty", "truncated", "wrong_count", "no_list", "unsuccessful", "garbage"])
def test_a_listing_that_is_not_whole_is_read_again(vast: Emulator, run: Run, kind: str) -> None:
    rented(vast, label())
    lie = vast.inject(kind, "list", times=1)
    assert run() == 0
    assert lie.hits == 1
    assert alive(vast) == []


@pytest.mark.parametrize("kind", ["truncated", "wrong_count", "no_list", "unsuccessful", "garbage", "rate_limited"])
def test_without_a_whole_listing_nothing_is_touched(
    vast: Emulator, run: Run, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = rented(vast, label())
    vast.inject(kind, "list", times=None)
    assert run("--all") == 2
    assert alive(vast) == [old]
    assert vast.calls["destroy"] == 0
    assert capsys.readouterr().err.startswith("Vast.ai ")


@pytest.mark.parametrize(("times", "status"), [(2, 0), (None, 1)])
def test_a_destroy_that_does_nothing_is_repeated(
    vast: Emulator, run: Run, capsys: pytest.CaptureFixture[str], times: int | None, status: int
) -> None:
    old = rented(vast, label())
    vast.inject("ignored", "destroy", times=times)
    assert run() == status
    assert alive(vast) == [old][:status]
    assert vast.calls["destroy"] == (3 if times else reap.TRIES)
    assert ("is left: it is still there after 5 destroys" in capsys.readouterr().out) is (status == 1)


@pytest.mark.parametrize("on", ["list", "show", "destroy"])
@pytest.mark.parametrize("kind", ["rate_limited", "status", "lost_request", "lost_reply"])
def test_calls_that_fail_twice_are_made_again(vast: Emulator, run: Run, kind: str, on: str) -> None:
    rented(vast, label())
    fault = vast.inject(kind, on, times=2)
    assert run() == 0
    assert fault.hits == 2 or (kind, on) == ("lost_reply", "destroy")
    assert alive(vast) == []


def test_one_that_cannot_be_destroyed_does_not_save_the_others(vast: Emulator, run: Run) -> None:
    first, second = rented(vast, label(age_s=OLD_S + 5)), rented(vast, label())
    vast.inject("status", "destroy", times=reap.TRIES)
    assert run() == 1
    assert alive(vast) == [first]
    assert second not in alive(vast)


def test_a_key_that_is_wrong_gets_a_404_which_proves_nothing(
    vast: Emulator, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = rented(vast, label())
    vast.inject("auth_error", "show", times=1)
    assert run() == 2
    assert alive(vast) == [old]
    monkeypatch.setenv("VAST_API_KEY", "wrong-key-of-another")
    calls = vast.calls["list"]
    assert run() == 2
    assert vast.calls["list"] == calls + 1  # asking again does not help
    reported = capsys.readouterr()
    assert "check VAST_API_KEY" in reported.err
    assert "wrong-key-of-another" not in reported.out + reported.err


@pytest.mark.parametrize(
    ("status", "body", "gone"),
    [
        (404, {"error": "no_such_instance"}, True),
        (410, {"error": "not_found"}, True),
        (404, {"detail": "error 404/3603: no_such_instance 7"}, True),
        (404, {"error": {}, "detail": "not_found"}, True),
        (404, {"detail": "Not Found"}, False),
        (404, {}, False),
        (500, {"error": "not_found"}, False),
        (404, {"error": "auth_error", "msg": "key not_found"}, False),
        (404, {"detail": "auth_error key not_found"}, False),
        (403, {"error": "not_found"}, False),
    ],
)
def test_what_an_error_proves(status: int, body: dict[str, Any], gone: bool) -> None:
    """The rule that the reaper and the gateway share."""
    assert reap.gone(status, body) is gone


def test_a_machine_whose_label_was_changed_since_is_left_alone(
    vast: Emulator, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The listing lags: by now the machine has another label."""
    old = rented(vast, label())
    run("--dry-run")
    vast.configure(list_behind=1)
    vast.account.alive()[0].label = "kept by hand"
    assert run() == 1
    assert alive(vast) == [old]
    assert "its label is 'kept by hand' now" in capsys.readouterr().out


def test_a_clock_that_is_wrong_destroys_nothing(
    vast: Emulator, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    young = rented(vast, label(age_s=60))
    wrong = SimpleNamespace(time=lambda: time.time() + OLD_S, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(reap, "time", wrong)
    assert run() == 2
    assert alive(vast) == [young]
    assert "a clock that differs from this machine's by" in capsys.readouterr().err


def test_no_server(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VAST_API_BASE", "http://127.0.0.1:9")
    assert run() == 2
    assert "Vast.ai cannot be reached: ConnectionError" in capsys.readouterr().err


def test_calls_are_apart(vast: Emulator, run: Run) -> None:
    rented(vast, label())
    began = time.monotonic()
    run("--pause", "0.2")
    assert [call.kind for call in vast.log] == ["list", "show", "destroy", "show", "list"]
    assert time.monotonic() - began >= 0.8


@pytest.mark.parametrize(
    "words", [["--deployment", ""], ["--deployment", "Test"], ["--max-age", "60"], ["--max-age", "nan"]]
)
def test_a_wrong_call_exits_with_2_and_calls_nothing(vast: Emulator, run: Run, words: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run(*words)
    assert error.value.code == 2
    assert vast.log == []


def test_a_run_that_takes_too_long_ends(
    vast: Emulator, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reap, "RUN_S", 1)
    vast.inject("slow", "list", seconds=10, times=None)
    assert run() == 2
    assert "took more than 1 s" in capsys.readouterr().err


# ---- by itself


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = {".".join("gateway.providers.clouds.vast.reap".split(".")[:n]) for n in range(1, 6)}
        known = {*sys.stdlib_module_names, "requests", "urllib3", "idna", "certifi", "charset_normalizer", "chardet"}
        if name not in ours and top not in known:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import runpy
sys.argv = ["reap", *sys.argv[1:]]
"""


@pytest.mark.parametrize("way", ["module", "copied"])
def test_it_needs_requests_and_nothing_else(vast: Emulator, tmp_path: Path, way: str) -> None:
    rented(vast, label())
    shutil.copy(reap.__file__, tmp_path / "reap.py")
    how = {
        "module": 'runpy.run_module("gateway.providers.clouds.vast.reap", run_name="__main__")',
        "copied": 'runpy.run_path("reap.py", run_name="__main__")',
    }
    environ = {
        "PATH": os.environ["PATH"],
        "VAST_API_KEY": vast.config.api_key,
        "VAST_API_BASE": vast.url,
        "DEPLOYMENT": "test",
        "VAST_MAX_LIFETIME": "3600",
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE + how[way], "--pause", "0.01"],
        cwd=ROOT if way == "module" else tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("is destroyed\n")
    assert alive(vast) == []
