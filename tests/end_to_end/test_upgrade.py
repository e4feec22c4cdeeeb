"""A gateway is replaced while it works: by one that starts after it, or beside it on the same folder and database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import requests

from ffmpeg_ops.operation import StopSignal
from gateway.storage import local
from handler import upload
from scripts.client import Client
from scripts.stack import Stack, free_port
from tests.end_to_end.conftest import ended
from tests.end_to_end.test_claims import Relay
from tests.gateway.api.live import API_KEY, live
from tests.outputs import video_key
from tests.servers import FileServer, eventually
from wire.envelope import Upload

pytestmark = pytest.mark.slow

SIZE = 40 * upload._CHUNK_BYTES


class Slow(StopSignal):
    """Of a worker on a slow line: an upload asks it before every chunk."""

    def check(self) -> None:
        super().check()
        time.sleep(0.1)


def test_uploads_that_a_stop_cuts_off_leave_nothing_and_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PAUSES_S", (0.2,) * 300)
    monkeypatch.setattr(local, "HALF_WRITTEN_MS", -60_000)
    path, port = tmp_path / "video.mp4", free_port()
    path.write_bytes(b"x" * SIZE)
    with live(tmp_path / "data", stop_s=1, port=port) as first, ThreadPoolExecutor(1) as pool:
        job, attempt = first.claimed_job()
        target = Upload(url=first.origin + first.upload_path(attempt), max_bytes=SIZE)
        stored = pool.submit(upload.upload, path, target, "video/mp4", Slow())
        head = f"POST /files HTTP/1.1\nX-API-Key: {API_KEY}\nContent-Length: 1000000"
        with first.half_sent(head, b"ID3" + b"x" * 70_000) as client:
            eventually(lambda: len(first.files()) == 2)
            assert first.stop().wait(60) == 0
            assert list(first.services.storage.keys()) == [], "nothing half-written is listed"
            assert not stored.done()
            assert ended_without_response(client.recv)
        first.services.storage.tidy()
        assert first.files() == [], "and nothing is left"
        with live(tmp_path / "data", port=port) as second:
            stored.result(120)
            assert list(second.services.storage.keys()) == [video_key(attempt)]
            result = {"outputs": {"video": {"size_bytes": SIZE}}, "stats": {"size_bytes": SIZE}}
            second.services.report(attempt.id, "completed", result=result)
            assert second.call("GET", f"/jobs/{job.id}").json()["status"] == "completed"


def ended_without_response(recv) -> bool:  # type: ignore[no-untyped-def]
    try:
        return recv(100) == b""
    except ConnectionResetError:
        return True


class Upgrade:
    """Two gateways on one folder and database, a worker, and a proxy that passes requests to one of the gateways."""

    def __init__(self, folder: Path, files: FileServer, relay: Relay) -> None:
        self.relay = relay
        environ = {"PUBLIC_URL": relay.origin, "FETCH_ALLOW_ORIGINS": f"{files.origin},{relay.origin}"}
        self.old = Stack(folder / "data", folder / "old", environ=environ)
        self.new = Stack(
            self.old.data_dir,
            folder / "new",
            worker_port=self.old.worker_port,
            api_key=self.old.api_key,
            environ=environ,
        )
        self.api = Client(relay.origin, self.old.api_key)
        self.image = files.url("/photo.jpg")

    def submit(self, count: int) -> list[dict[str, object]]:
        params = {"url_image": self.image, "duration": 1, "frame_rate": 10}
        return [self.api.submit("img2vid", params) for _ in range(count)]


@pytest.fixture
def upgrade(tmp_path: Path, sample_files: FileServer) -> Iterator[Upgrade]:
    with ExitStack() as stack:
        made = Upgrade(tmp_path, sample_files, stack.enter_context(closing(Relay())))
        made.relay.targets = [made.old.port]
        stack.callback(made.api.close)
        stack.callback(made.new.stop)
        stack.enter_context(made.old)
        yield made


def test_two_gateways_that_overlap_lose_nothing_and_try_nothing_twice(upgrade: Upgrade) -> None:
    jobs = upgrade.submit(4)
    head = {"X-API-Key": upgrade.old.api_key}
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(requests.post, f"{upgrade.old.url}/files", data=trickle(), headers=head, timeout=60)
        upgrade.new.start_gateway()
        upgrade.new.wait_ready()
        jobs += upgrade.submit(2)  # by the old one, while both dispatch
        upgrade.relay.targets = [upgrade.new.port]
        jobs += upgrade.submit(2)
        upgrade.old.stop("gateway")
        uploaded = slow.result(60)
    assert uploaded.status_code == 201
    assert requests.get(uploaded.json()["url"], timeout=10).content == b"ID3" + b"x" * 30
    for job in jobs:
        done = ended(upgrade.api, job, 120)
        assert (done["status"], done["stats"]["tries"], len(done["attempts"])) == ("completed", 1, 1), done
        assert len(requests.get(done["video_url"], timeout=10).content) == done["stats"]["size_bytes"]
    outputs = [path for path in (upgrade.new.data_dir / "files/outputs").rglob("*") if path.is_file()]
    assert len(outputs) == len(jobs)


class trickle:
    """A body that takes some seconds."""

    def __len__(self) -> int:
        return 33

    def __iter__(self) -> Iterator[bytes]:
        yield b"ID3"
        for _ in range(30):
            time.sleep(0.15)
            yield b"x"
