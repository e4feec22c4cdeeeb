"""One worker per attempt: two get the same one, one continues too late, one continues after a cancellation."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from scripts.client import Client
from scripts.stack import Stack
from tests.end_to_end.conftest import encoding, ended
from tests.end_to_end.processes import children, ffmpeg_children
from tests.handler.support import alive
from tests.servers import FileServer, Reply, Request, eventually, responds

pytestmark = pytest.mark.slow


class Relay(FileServer):
    """Sends jobs to the workers at all ports in `targets`, other calls to the first; returns the first one's response."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[int] = []
        self.default = self._pass_on

    def _pass_on(self, request: Request) -> Reply:
        ports = self.targets if request.method == "POST" else self.targets[:1]
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}

        def call(port: int) -> requests.Response:
            url = f"http://127.0.0.1:{port}{request.path}"
            return requests.request(request.method, url, data=request.body, headers=headers, timeout=10)

        try:
            first, *_ = [call(port) for port in ports]
        except requests.RequestException:
            return Reply(drop=True)
        kept = {name: first.headers[name] for name in ("Content-Type", "Retry-After") if name in first.headers}
        return Reply(first.status_code, first.content, kept)


@dataclass
class Site:
    """A hasty gateway, and two workers that get its jobs through `relay`."""

    gateway: Stack
    workers: list[Stack]
    relay: Relay
    api: Client

    def aim(self, *numbers: int) -> None:
        """Jobs go to these workers."""
        self.relay.targets = [self.workers[number].worker_port for number in numbers]

    def pid(self, worker: int) -> int:
        return self.workers[worker].process("worker").pid

    def encoders(self, worker: int) -> list[int]:
        return ffmpeg_children(self.pid(worker))

    def signal(self, worker: int, number: int) -> None:
        """Send a signal to the server's master and its child, but not to FFmpeg."""
        for each in [self.pid(worker), *children(self.pid(worker))]:
            os.kill(each, number)

    def outputs(self) -> list[str]:
        """All files below outputs/, half-written ones too."""
        root = self.gateway.data_dir / "files" / "outputs"
        return [path.name for path in root.rglob("*") if path.is_file()]

    def left_over(self, worker: int) -> list[Path]:
        return list((self.workers[worker].data_dir / "work").glob("attempt-*"))


@pytest.fixture
def site(tmp_path: Path, sample_files: FileServer) -> Iterator[Site]:
    environ = {"SECRET_KEY": "s" * 32, "FETCH_ALLOW_ORIGINS": sample_files.origin}
    with ExitStack() as stack:
        between = stack.enter_context(closing(Relay()))
        gateway = Stack(tmp_path / "gateway", tmp_path / "gateway", worker_port=between.port, environ=environ)
        stack.callback(gateway.stop)
        gateway._start("gateway", "tests.end_to_end.hasty_gateway", gateway._gateway_environ())
        workers = []
        for name in ("one", "two"):
            workers.append(Stack(tmp_path / name, tmp_path / name, port=gateway.port, environ=environ))
            stack.callback(workers[-1].stop)
            workers[-1].start_worker()
        between.targets = [workers[1].worker_port]
        eventually(lambda: responds(f"{gateway.url}/health"))
        gateway.wait_ready()
        between.targets = [workers[0].worker_port]
        gateway.wait_ready()
        api = Client(gateway.url, gateway.api_key)
        stack.callback(api.close)
        yield Site(gateway, workers, between, api)


def test_of_two_workers_with_the_same_attempt_one_works(site: Site, sample_files: FileServer) -> None:
    site.aim(0, 1)
    job = encoding(site.api, sample_files)
    working = [bool(site.encoders(worker)) for worker in (0, 1)]
    assert sorted(working) == [False, True]
    assert site.left_over(working.index(False)) == []
    job = ended(site.api, job, 90)
    assert (job["status"], job["stats"]["tries"]) == ("completed", 1), job
    assert len(site.outputs()) == 1
    assert requests.get(job["video_url"], timeout=10).status_code == 200


def test_an_attempt_that_wakes_up_late_stops_and_changes_nothing(site: Site, sample_files: FileServer) -> None:
    site.aim(0)
    job = encoding(site.api, sample_files)
    (first,) = site.encoders(0)
    os.kill(first, signal.SIGSTOP)
    site.signal(0, signal.SIGSTOP)
    site.aim(1)
    eventually(lambda: site.encoders(1))
    site.signal(0, signal.SIGCONT)  # not its FFmpeg, which can only be killed
    eventually(lambda: not alive(first))
    job = ended(site.api, job, 90)
    assert (job["status"], job["stats"]["tries"]) == ("completed", 2), job
    assert len(site.outputs()) == 1
    assert site.outputs()[0] in job["video_url"]
    assert len(requests.get(job["video_url"], timeout=10).content) == job["stats"]["size_bytes"]
    eventually(lambda: not site.left_over(0))


def test_a_worker_that_is_done_after_its_job_was_cancelled_delivers_nothing(
    site: Site, sample_files: FileServer
) -> None:
    site.aim(0)
    params = {"url_video": sample_files.url("/video.mp4"), "url_srt": sample_files.url("/captions.en.srt")}
    job = site.api.submit("caption", params)
    eventually(lambda: site.encoders(0))
    site.signal(0, signal.SIGSTOP)  # the worker cannot hear of the cancellation, its FFmpeg goes on to the end
    encoders = site.encoders(0)
    eventually(lambda: not any(alive(pid) for pid in encoders))
    assert site.outputs() == [] and site.api.job(job["jobId"])["status"] == "running"
    headers = {"X-API-Key": site.gateway.api_key}
    answer = requests.delete(f"{site.gateway.url}/jobs/{job['jobId']}", headers=headers, timeout=30)
    assert answer.json()["status"] == "cancelled"
    site.signal(0, signal.SIGCONT)
    eventually(lambda: not site.left_over(0))
    assert site.outputs() == []
    job = site.api.job(job["jobId"])
    assert job["status"] == "cancelled" and {"video_url", "stats", "error"}.isdisjoint(job)
    again = ended(site.api, site.api.submit("img2vid", {"url_image": sample_files.url("/photo.jpg"), "duration": 0.2}))
    assert again["status"] == "completed", again
