"""Steps of a process, which are its effects that another process can see, and deaths before or after any of them.

Instead of dying the process may be stopped for long, like a machine that its host pauses.

Hooks in the libraries find the steps, not a list: commits of the database, HTTP requests, files and folders created,
renamed and removed, processes started. The name of a step says what it is and where in our code it is done, so that the
same step has the same name in every run.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter

ROOT = Path(__file__).parents[2]
KILLED = 137
_PACKAGES = tuple(str(ROOT / name) for name in ("wire", "common", "ffmpeg_ops", "handler", "gateway"))
_FRAMES = 4
_ID = re.compile(r"(?=\w*\d)[\w-]{9,}(\.mp4)?|\d{5,}")


@dataclass(frozen=True, order=True)
class Point:
    """The `nth` time that the step `name` is reached, since the start of the run or the last death."""

    name: str
    nth: int

    def __str__(self) -> str:
        return self.name if self.nth == 1 else f"{self.name} #{self.nth}"


@dataclass
class Plan:
    """The plan of one run, and what took place."""

    #: the points of the deaths to come, in order
    deaths: list[tuple[str, int]] = field(default_factory=list)
    #: the deaths that took place: process id, name of the step
    died: list[tuple[int, str]] = field(default_factory=list)
    #: whether processes are stopped there, until they are woken, instead of dying
    sleep: bool = False
    #: every step that was reached: process id, deaths before it, name
    steps: list[tuple[int, int, str]] = field(default_factory=list)

    def points(self, after_deaths: int = 0) -> list[Point]:
        """Every point between that many deaths and the next one."""
        seen: Counter[str] = Counter()
        found = []
        for _, died, name in self.steps:
            if died == after_deaths:
                seen[name] += 1
                found.append(Point(name, seen[name]))
        return found


class Book:
    """Keeps the plan of the current run. Between runs there is none, and no step is counted."""

    def __init__(self, folder: Path) -> None:
        self._plan, self._steps, self._lock = folder / "plan.json", folder / "plan.steps", folder / "plan.lock"
        self._turn = threading.Lock()

    def open(self, *deaths: Point, sleep: bool = False) -> None:
        points = [(point.name, point.nth) for point in deaths]
        with self._locked():
            self._steps.write_text("")
            self._plan.write_text(json.dumps({"deaths": points, "died": [], "sleep": sleep}))

    def read(self) -> Plan:
        with self._locked():
            return self._read()

    def close(self) -> Plan:
        with self._locked():
            plan = self._read()
            self._plan.unlink()
            return plan

    def step(self, name: str) -> None:
        """Record the step, and die or stop here if that is the plan."""
        with self._turn:  # a thread stopped with the file's lock would block all others
            if self._sleeps_here(name):
                os.kill(os.getpid(), signal.SIGSTOP)

    def _sleeps_here(self, name: str) -> bool:
        with self._locked():
            if not self._plan.exists():
                return False
            plan = json.loads(self._plan.read_text())
            came = f"\t{len(plan['died'])}\t{name}\n"
            with self._steps.open("a") as file:
                file.write(f"{os.getpid()}{came}")
            if not plan["deaths"] or plan["deaths"][0] != [name, self._steps.read_text().count(came)]:
                return False
            plan["died"].append((os.getpid(), plan["deaths"].pop(0)[0]))
            self._plan.write_text(json.dumps(plan))
            if not plan["sleep"]:
                os._exit(KILLED)
            return True

    def _read(self) -> Plan:
        lines = (line.split("\t") for line in self._steps.read_text().splitlines())
        return Plan(
            **json.loads(self._plan.read_text()),
            steps=[(int(process), int(died), name) for process, died, name in lines],
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def die_with_parent() -> None:
    """Have this process killed when its parent dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def install(role: str, folder: Path) -> None:
    """Record the steps of this process, but not of its children. `role` is the first word of their names."""
    book, owner = Book(folder), os.getpid()

    def reach(when: str, what: str, site: str) -> None:
        if os.getpid() == owner:
            book.step(f"{role} {when} {what}{site and ' in '}{site}")

    def around(holder: Any, name: str, what: Callable[..., str | None]) -> None:
        original = getattr(holder, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            site, step = _site(), what(*args, **kwargs)
            if step is None or not site:
                return original(*args, **kwargs)
            reach("before", step, site)
            answer = original(*args, **kwargs)
            reach("after", step, site)
            return answer

        setattr(holder, name, wrapper)

    for name in ("replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir"):
        around(os, name, lambda *_, step=name, **__: step)
    around(os, "open", lambda path, flags, *_, **__: "create" if flags & os.O_CREAT else None)
    around(subprocess.Popen, "__init__", lambda _, command, *__, **___: f"start {_program(command)}")
    around(HTTPAdapter, "send", lambda _, request, *__, **___: _called(request.method, request.url))
    if role == "worker":
        _hook_aiohttp(reach)
    else:
        from sqlalchemy.engine.default import DefaultDialect

        around(DefaultDialect, "do_commit", lambda *_: "commit")


def _hook_aiohttp(reach: Callable[[str, str, str], None]) -> None:
    """Hook the HTTP client of RunPod's SDK."""
    import aiohttp

    original = aiohttp.ClientSession._request

    async def request(self: Any, method: str, url: Any, **kwargs: Any) -> Any:
        step = _called(method, str(url))
        reach("before", step, "")
        answer = await original(self, method, url, **kwargs)
        reach("after", step, "")
        return answer

    aiohttp.ClientSession._request = request  # type: ignore[assignment]


def _called(method: str | None, url: str | None) -> str:
    parts = ["*" if _ID.fullmatch(part) else part for part in urlsplit(url or "").path.split("/")]
    return f"{method} {'/'.join(parts)}"


def _program(command: Any) -> str:
    """The program that a command line under setpriv and prlimit runs."""
    words = [command] if isinstance(command, str) else [str(word) for word in command]
    return next((Path(word).name for word in reversed(words) if Path(word).name in {"ffmpeg", "ffprobe"}), words[0])


def _site() -> str:
    """The innermost functions of our code on the stack, outermost first."""
    names: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(names) < _FRAMES:
        if frame.f_code.co_filename.startswith(_PACKAGES):
            names.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return " > ".join(reversed(names))
