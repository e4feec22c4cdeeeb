"""One job of each operation from request to download, and what goes wrong on the way."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.client import Client
from scripts.stack import Stack
from tests.conftest import SAMPLES
from tests.end_to_end.conftest import MakeClient, MakeStack, add_samples, encoding, ended
from tests.end_to_end.processes import ffmpeg_children, freeze, kill_tree
from tests.ffmpeg_ops.media import frame_count
from tests.handler.support import alive
from tests.servers import FileServer, Reply, eventually, file_server, responds

pytestmark = pytest.mark.slow


def img2vid(files: FileServer) -> dict[str, Any]:
    return {"url_image": files.url("/photo.jpg"), "duration": 0.5}


def test_each_operation_from_request_to_download(
    make_stack: MakeStack, sample_files: FileServer, client: MakeClient, tmp_path: Path
) -> None:
    url = sample_files.url
    jobs = {
        "caption": {"url_video": url("/video.mp4"), "url_srt": url("/legendas.pt.srt")},
        "img2vid": {"url_image": url("/photo.jpg"), "duration": 1, "frame_rate": 24},
        "adicionaAudio": {"url_video": url("/video.mp4"), "url_audio": url("/narration.mp3")},
    }
    frames = {"caption": 132, "img2vid": 24, "adicionaAudio": 132}
    with make_stack() as stack:
        api = client(stack)
        for operation, params in jobs.items():
            job = ended(api, api.submit(operation, params))
            assert job["status"] == "completed", job
            assert job["stats"]["frames"] == frames[operation]
            assert job["stats"]["provider"] == "local" and job["stats"]["tries"] == 1
            api.download(job["video_url"], tmp_path / "video.mp4")
            assert (tmp_path / "video.mp4").stat().st_size == job["stats"]["size_bytes"]
            assert frame_count(tmp_path / "video.mp4") == frames[operation]
    assert list((stack.data_dir / "work").glob("attempt-*")) == []
    assert not list((stack.data_dir / "files").rglob(".part-*"))


@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        ("caption", {"url_video": "/missing.mp4", "url_srt": "/captions.en.srt"}, "asset_not_found"),
        ("caption", {"url_video": "/large", "url_srt": "/captions.en.srt"}, "asset_too_large"),
        ("caption", {"url_video": "/video.mp4", "url_srt": "/photo.jpg"}, "asset_invalid"),
        ("adicionaAudio", {"url_video": "/video.mp4", "url_audio": "/silent.mp4"}, "asset_has_no_audio"),
        ("img2vid", {"url_image": "http://127.0.0.1:9/inside.jpg"}, "asset_forbidden"),
    ],
)
def test_bad_input_gets_its_own_clear_code(
    running: tuple[FileServer, Client], operation: str, params: dict[str, str], code: str
) -> None:
    files, api = running
    urls = {name: files.url(path) if path.startswith("/") else path for name, path in params.items()}
    job = ended(api, api.submit(operation, urls))
    assert (job["status"], job["error"]["code"]) == ("failed", code)
    assert any(name in job["error"]["message"] for name in params)
    assert files.origin not in job["error"]["message"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One stack for all the tests that only make jobs fail."""
    silent = tmp_path_factory.mktemp("media") / "silent.mp4"
    command = ["ffmpeg", "-v", "error", "-i", SAMPLES / "video.mp4", "-t", "1", "-an", "-c", "copy", silent]
    subprocess.run(command, check=True)
    home = tmp_path_factory.mktemp("stack")
    with file_server() as files:
        add_samples(files)
        files.routes |= {"/large": Reply(body=b"x" * 3_000_000), "/silent.mp4": Reply(body=silent.read_bytes())}
        environ = {"FETCH_ALLOW_ORIGINS": files.origin, "MAX_ASSET_BYTES": "2000000"}
        with Stack(home / "data", home / "logs", environ=environ) as stack:
            api = Client(stack.url, stack.api_key)
            yield files, api
            api.close()


def test_a_job_waits_until_the_worker_is_up(
    make_stack: MakeStack, sample_files: FileServer, client: MakeClient
) -> None:
    stack = make_stack()
    stack.start_gateway()
    eventually(lambda: responds(f"{stack.url}/health"))
    api = client(stack)
    job = api.submit("img2vid", img2vid(sample_files))
    eventually(lambda: api.job(job["jobId"]).get("waitingFor") == "the worker is not running")
    stack.start_worker()
    assert ended(api, job)["status"] == "completed"


def test_a_job_whose_worker_is_killed_is_tried_again(
    make_stack: MakeStack, sample_files: FileServer, client: MakeClient
) -> None:
    with make_stack() as stack:
        api = client(stack)
        job = encoding(api, sample_files)
        worker = stack.process("worker")
        encoders = ffmpeg_children(worker.pid)
        assert encoders
        freeze(encoders)
        kill_tree(worker.pid)
        worker.wait()
        eventually(lambda: not any(alive(pid) for pid in encoders))
        stack.start_worker()
        job = ended(api, job, 90)
    assert job["status"] == "completed"
    assert job["stats"]["tries"] == 2
    assert list((stack.data_dir / "work").glob("attempt-*")) == []


def test_a_cancelled_job_stops_ffmpeg(make_stack: MakeStack, sample_files: FileServer, client: MakeClient) -> None:
    with make_stack() as stack:
        api = client(stack)
        job = encoding(api, sample_files)
        encoders = ffmpeg_children(stack.process("worker").pid)
        assert encoders
        freeze(encoders)
        headers = {"X-API-Key": stack.api_key}
        answer = requests.delete(f"{stack.url}/jobs/{job['jobId']}", headers=headers, timeout=30)
        assert answer.json()["status"] == "cancelled"
        eventually(lambda: not any(alive(pid) for pid in encoders))
        # the worker is free again
        assert ended(api, api.submit("img2vid", img2vid(sample_files)))["status"] == "completed"
