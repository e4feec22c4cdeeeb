"""A real browser for tests of pages: Chromium without a window, driven over a pipe with the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
SWITCHES = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
PATIENCE_S = 240.0


class PageError(Exception):
    """The page raised an exception, or what a test waits for did not come."""


class Page:
    """One page. `messages`: what the browser logged, such as violations of the page's policy; `requests`: all URLs."""

    def __init__(self, process: subprocess.Popen[bytes], reads: int, writes: int) -> None:
        self._process, self._reads, self._writes = process, reads, writes
        self._last, self._session, self._answers = 0, "", dict[int, dict[str, Any]]()
        self._arrived = threading.Condition()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.width = 0
        threading.Thread(target=self._listen, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self._last += 1
        number, session = self._last, {"sessionId": self._session} if self._session else {}
        command = {"id": number, "method": method, "params": params, **session}
        os.write(self._writes, json.dumps(command).encode() + b"\0")
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._answers, PATIENCE_S):
                raise PageError(f"{method}: no answer")
            answer = self._answers.pop(number)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        return answer["result"]  # type: ignore[no-any-return]

    def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        self.width, phone = width, width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, which may be a promise."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise PageError(done["exceptionDetails"].get("exception", {}).get("description", script))
        return done["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until the expression is true."""
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            with suppress(PageError):  # the page may be changing
                if self.run(f"!!({script})"):
                    return
            time.sleep(0.1)
        raise PageError(f"never true: {script}")

    def screenshot(self, path: Path) -> None:
        """Save a picture of the whole page, for people."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _listen(self) -> None:
        with os.fdopen(self._reads, "rb") as pipe:
            rest = b""
            while data := pipe.read1():
                *whole, rest = (rest + data).split(b"\0")
                for message in map(json.loads, whole):
                    self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case None:
                with self._arrived:
                    self._answers[message["id"]] = message
                    self._arrived.notify_all()
            case "Log.entryAdded":
                self.messages.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.messages.append(json.dumps(params["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@contextmanager
def browser() -> Iterator[Page]:
    """Start the browser with one empty page; it ends with the block."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        (their_reads, writes), (reads, their_writes) = os.pipe(), os.pipe()
        command = [CHROMIUM, *SWITCHES, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        pipes = f'exec "$@" 3<&{their_reads} 4>&{their_writes}'  # the numbers that Chromium expects
        process = subprocess.Popen(
            ["bash", "-c", pipes, "bash", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(their_reads, their_writes),
            start_new_session=True,
        )
        os.close(their_reads)
        os.close(their_writes)
        try:
            yield Page(process, reads, writes)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(writes)
