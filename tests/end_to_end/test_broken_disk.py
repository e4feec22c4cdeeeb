"""Disks and databases that fail under a running gateway, which acknowledges nothing it cannot keep, and recovers."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.stack import Stack
from tests.end_to_end.conftest import FINISHED, MakeClient, MakeStack, ended
from tests.postgres import postgres_server
from tests.servers import FileServer, eventually, responds
from tests.small_disk import ext4_disk, fill, small_disk

pytestmark = pytest.mark.slow

RUBBISH = b"this was a database once. " * 40


class Gateway:
    """A gateway without a worker: jobs are accepted, wait for a short time, and end with `queue_timeout`."""

    def __init__(self, stack: Stack, url: str) -> None:
        self.stack, self._image = stack, url
        self.taken: list[str] = []

    def _call(self, method: str, path: str, **body: Any) -> requests.Response:
        headers = {"X-API-Key": self.stack.api_key}
        return requests.request(method, f"{self.stack.url}{path}", headers=headers, timeout=40, **body)

    def get(self, path: str) -> requests.Response:
        return self._call("GET", path)

    def upload(self) -> requests.Response:
        return self._call("POST", "/files", data=b"ID3 sound")

    def cancel(self, job_id: str) -> requests.Response:
        return self._call("DELETE", f"/jobs/{job_id}")

    def post(self, **more: str) -> requests.Response:
        """Create a job; with `more`, one of `caption` with these params."""
        operation, body = ("caption", {"url_video": self._image, **more}) if more else ("img2vid", {})
        answer = self._call("POST", f"/video/{operation}", json=body or {"url_image": self._image})
        if answer.status_code == 202:
            self.taken.append(answer.json()["jobId"])
        return answer

    def refuses(self) -> str:
        """Check that a POST is refused with a problem document; return its code."""
        answer = self.post()
        assert answer.status_code in {503, 507}, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Retry-After"]
        return str(answer.json()["code"])

    def not_ready(self, check: str) -> str:
        """Wait until `/ready` fails because of `check`; return the reason."""
        eventually(lambda: self.get("/ready").json()["checks"][check] != "ok")
        answer = self.get("/ready")
        assert answer.status_code == 503
        return str(answer.json()["checks"][check])

    def works_again(self, limit_s: float = 30) -> None:
        """Check that a new job is accepted, and that every accepted job ends."""
        eventually(lambda: self.get("/ready").json()["checks"].get("database") == "ok")
        eventually(lambda: self.post().status_code == 202)
        assert self.taken
        for job_id in self.taken:
            eventually(lambda job_id=job_id: self.get(f"/jobs/{job_id}").json().get("status") in FINISHED, limit_s)
        self.stack.check()

    def log(self) -> list[dict[str, Any]]:
        lines = (self.stack.log_dir / "gateway.log").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def start(make_stack: MakeStack, files: FileServer) -> Iterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def run(**environ: str) -> Gateway:
        stack = make_stack(**{"QUEUE_LIMIT_SECONDS": "3", "MIN_FREE_DISK_PERCENT": "0", **environ})
        stack._start("gateway", "tests.end_to_end.hasty_gateway", stack._gateway_environ())
        eventually(lambda: responds(f"{stack.url}/health"))
        made.append(Gateway(stack, files.url("/photo.jpg")))
        assert made[-1].post().status_code == 202
        return made[-1]

    yield run
    for gateway in made:
        lines = gateway.log()
        assert not [line for line in lines if line["event"] == "request.failed"], "no error is unexpected"
        # errors outside of requests: the dispatcher's loop, its steps and chores
        assert len([line for line in lines if line.get("level") == "error" and "request_id" not in line]) < 60


def test_a_full_disk(start: Callable[..., Gateway], tmp_path: Path) -> None:
    """Nothing new is accepted; jobs are read, cancelled and end as ever, with the space that was kept for that."""
    with small_disk(tmp_path / "data", "48m"):
        gateway = start(QUEUE_LIMIT_SECONDS="40")
        reserve = tmp_path / "data" / ".reserve"
        eventually(reserve.exists)
        while gateway.post(subtitles="x" * 300_000).status_code == 202:
            pass
        filler = fill(tmp_path / "data")
        assert {gateway.refuses() for _ in range(5)} == {"storage_low"}
        assert gateway.upload().json()["code"] == "storage_low"
        assert gateway.not_ready("storage") == "the disk of DATA_DIR is full"
        waiting = [job for job in gateway.taken if gateway.get(f"/jobs/{job}").json()["status"] == "queued"]
        assert len(waiting) > 10
        for job_id in waiting[::2]:
            answer = gateway.cancel(job_id)
            assert answer.status_code in {200, 409}, answer.text
            fill(tmp_path / "data")  # whatever that gave back
        for job_id in gateway.taken:
            eventually(lambda job_id=job_id: gateway.get(f"/jobs/{job_id}").json()["status"] in FINISHED, 90)
        filler.unlink()
        gateway.works_again(90)
        eventually(reserve.exists, 150)  # made by a clean-up, of which one comes every minute
        gateway.stack.stop()


def test_a_read_only_disk_of_files(start: Callable[..., Gateway], tmp_path: Path) -> None:
    with small_disk(tmp_path / "data" / "files", "1m"):
        gateway = start()
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "data" / "files"], check=True)
        answer = gateway.upload()
        assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
        assert "Read-only" in gateway.not_ready("storage")
        subprocess.run(["mount", "-o", "remount,rw", tmp_path / "data" / "files"], check=True)
        assert gateway.upload().status_code == 201
        gateway.works_again()
        gateway.stack.stop()


def test_a_disk_that_becomes_read_only(start: Callable[..., Gateway], tmp_path: Path) -> None:
    """As ext4 makes it after an error: it is said, not traced back, and all goes on once it is repaired."""
    place, image = tmp_path / "data", tmp_path / "image"
    with ext4_disk(place, image):
        gateway = start()
        subprocess.run(["mount", "-o", "remount,abort", place], check=True)
        assert {gateway.refuses() for _ in range(3)} == {"service_unavailable"}
        assert gateway.get(f"/jobs/{gateway.taken[0]}").ok, "existing jobs can be read"
        assert gateway.cancel(gateway.taken[0]).status_code == 503
        assert gateway.upload().status_code == 503
        assert gateway.not_ready("database") == "the disk of DATA_DIR is read-only"
        assert "Read-only" in gateway.not_ready("storage")

        def reasons() -> list[str]:
            return [line["reason"] for line in gateway.log() if line["event"] == "dispatcher.database_failed"]

        eventually(lambda: len(reasons()) >= 3)
        assert set(reasons()) == {"the disk is read-only"}
        gateway.stack.stop()
        assert not [line for line in gateway.log() if "exception" in line or "Traceback" in str(line)]
    with ext4_disk(place, image):
        repaired = start()
        repaired.taken += gateway.taken
        repaired.works_again()
        repaired.stack.stop()


def test_a_full_disk_at_upload_fails_the_job_with_its_code(
    make_stack: MakeStack, sample_files: FileServer, client: MakeClient, tmp_path: Path
) -> None:
    stack, disk = make_stack(MIN_FREE_DISK_PERCENT="0", QUEUE_LIMIT_SECONDS="60"), tmp_path / "data" / "files"
    with small_disk(disk, "64k"), stack:
        api = client(stack)
        job = ended(api, api.submit("img2vid", {"url_image": sample_files.url("/photo.jpg"), "duration": 1}), 120)
        left = list(disk.rglob("*.mp4")) + list(disk.rglob(".part-*"))
    assert (job["status"], job["error"]["code"]) == ("failed", "storage_full")
    assert left == []


def test_another_process_that_locks_the_database(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start()
    # A submit whose outcome could not be saved is followed until it is certain, for longer than this test waits.
    eventually(lambda: gateway.get(f"/jobs/{gateway.taken[0]}").json()["status"] in FINISHED)
    with closing(sqlite3.connect(tmp_path / "data" / "reelay.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        codes: list[str] = []
        posts = [threading.Thread(target=lambda: codes.append(gateway.refuses())) for _ in range(6)]
        for post in posts:
            post.start()
        assert gateway.get(f"/jobs/{gateway.taken[0]}").ok, "reading does not wait"
        for post in posts:
            post.join()
        assert codes == ["service_unavailable"] * 6
        assert "no dispatcher" in gateway.not_ready("dispatcher")
        other.execute("ROLLBACK")
    gateway.works_again()
    # from SQLite itself, or from the thread that waits for it on behalf of others
    reasons = ("database is locked", "another thread has been writing")
    assert any(reason in f"{line.get('reason')} {line.get('error')}" for line in gateway.log() for reason in reasons)


@pytest.mark.parametrize("moved", ["data/reelay.db", "data"])
def test_a_database_that_is_moved_away(start: Callable[..., Gateway], tmp_path: Path, moved: str) -> None:
    gateway = start()
    path, away = tmp_path / moved, tmp_path / "away"
    path.rename(away)
    assert {gateway.refuses() for _ in range(3)} == {"service_unavailable"}
    assert gateway.get(f"/jobs/{gateway.taken[0]}").json()["code"] == "service_unavailable"
    assert gateway.not_ready("database")
    assert not (tmp_path / "data/reelay.db").exists(), "no empty database takes its place"
    away.rename(path)
    gateway.works_again()


def test_a_database_that_is_overwritten(start: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = start()
    path = tmp_path / "data" / "reelay.db"
    before = path.read_bytes()
    path.write_bytes(RUBBISH)
    answers = [gateway.post() for _ in range(5)]
    # SQLite goes on with its WAL and cache as long as it can: jobs accepted then are in the WAL
    assert {answer.status_code for answer in answers} <= {202, 503}
    assert gateway.get("/jobs").status_code in {200, 503}
    path.write_bytes(before)
    gateway.works_again()


def test_postgresql_that_is_stopped_and_started(start: Callable[..., Gateway]) -> None:
    with postgres_server() as server, server.database() as url:
        gateway = start(DATABASE_URL=url)
        server.stop()
        assert gateway.refuses() == "service_unavailable"
        assert gateway.get("/jobs").json()["code"] == "service_unavailable"
        assert gateway.not_ready("database")
        server.start()
        gateway.works_again()
        gateway.stack.stop()
