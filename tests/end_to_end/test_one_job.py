"""One job of each operation from request to download, and what goes wrong on the way."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.client import Client
from scripts.stack import Stack
from tests.end_to_end.conftest import MakeStack, ended, until
from tests.end_to_end.processes import answers, ffmpeg_children, freeze, kill_tree
from tests.handler.support import alive
from tests.servers import FileServer, Reply, eventually

pytestmark = pytest.mark.slow

MakeClient = Callable[[Stack], Client]
LONG = {"duration": 5, "frame_rate": 30}


def img2vid(files: FileServer, **params: Any) -> dict[str, Any]:
    return {"url_image": files.url("/photo.jpg"), "duration": 0.5, **params}


def probed_frames(path: Path) -> int:
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-of", "csv=p=0"]
    out = subprocess.run([*command, "-show_entries", "stream=nb_read_frames", path], capture_output=True, check=True)
    return int(out.stdout.split(b",")[0])


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
            assert probed_frames(tmp_path / "video.mp4") == frames[operation]
    assert list((stack.data_dir / "work").glob("attempt-*")) == []
    assert not list((stack.data_dir / "files").rglob(".part-*"))


def test_an_upload_can_be_named_in_a_job(make_stack: MakeStack, samples: Path, client: MakeClient) -> None:
    with make_stack() as stack:
        api = client(stack)
        photo = api.upload(samples / "photo.jpg")
        assert ended(api, api.submit("img2vid", {"url_image": photo, "duration": 0.2}))["status"] == "completed"


def test_wait_returns_the_finished_job(make_stack: MakeStack, sample_files: FileServer) -> None:
    with make_stack() as stack:
        headers = {"X-API-Key": stack.api_key, "Prefer": "wait=30"}
        answer = requests.post(f"{stack.url}/video/img2vid", json=img2vid(sample_files), headers=headers, timeout=40)
    assert answer.status_code == 200
    assert answer.json()["status"] == "completed"
    assert answer.headers["Preference-Applied"] == "wait=30"


@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        ("caption", {"url_video": "/missing.mp4", "url_srt": "/captions.en.srt"}, "asset_not_found"),
        ("caption", {"url_video": "/large", "url_srt": "/captions.en.srt"}, "asset_too_large"),
        ("caption", {"url_video": "/video.mp4", "url_srt": "/photo.jpg"}, "asset_invalid"),
        ("adicionaAudio", {"url_video": "/video.mp4", "url_audio": "/silent.mp4"}, "asset_has_no_audio"),
    ],
)
def test_bad_input_gets_its_own_clear_code(
    running: tuple[Stack, FileServer, Client], operation: str, params: dict[str, str], code: str
) -> None:
    _, files, api = running
    job = ended(api, api.submit(operation, {name: files.url(path) for name, path in params.items()}))
    assert (job["status"], job["error"]["code"]) == ("failed", code)
    assert any(name in job["error"]["message"] for name in params)
    assert files.origin not in job["error"]["message"]


def test_an_inside_address_is_not_fetched(running: tuple[Stack, FileServer, Client]) -> None:
    stack, _, api = running
    job = ended(api, api.submit("img2vid", {"url_image": f"http://127.0.0.1:{stack.worker_port}/health"}))
    assert job["error"]["code"] == "asset_forbidden"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One stack for all the tests that only make jobs fail."""
    from tests.conftest import SAMPLES
    from tests.servers import file_server

    silent = tmp_path_factory.mktemp("media") / "silent.mp4"
    command = ["ffmpeg", "-v", "error", "-i", SAMPLES / "video.mp4", "-t", "1", "-an", "-c", "copy", silent]
    subprocess.run(command, check=True)
    home = tmp_path_factory.mktemp("stack")
    with file_server() as files:
        for path in SAMPLES.iterdir():
            files.routes[f"/{path.name}"] = Reply(body=path.read_bytes())
        files.routes |= {
            "/large": Reply(body=b"x" * 3_000_000),
            "/silent.mp4": Reply(body=silent.read_bytes()),
        }
        environ = {"FETCH_ALLOW_ORIGINS": files.origin, "MAX_ASSET_BYTES": "2000000"}
        with Stack(home / "data", home / "logs", environ=environ) as stack:
            api = Client(stack.url, stack.api_key)
            yield stack, files, api
            api.close()


def test_a_job_waits_until_the_worker_is_up(
    make_stack: MakeStack, sample_files: FileServer, client: MakeClient
) -> None:
    stack = make_stack()
    stack.start_gateway()
    eventually(lambda: answers(stack))
    api = client(stack)
    job = api.submit("img2vid", img2vid(sample_files))
    until(api, job, lambda now: now.get("waitingFor") == "the worker is not running")
    stack.start_worker()
    assert ended(api, job)["status"] == "completed"


def test_a_job_whose_worker_is_killed_is_tried_again(
    make_stack: MakeStack, sample_files: FileServer, client: MakeClient
) -> None:
    with make_stack() as stack:
        api = client(stack)
        job = api.submit("img2vid", img2vid(sample_files, **LONG))
        until(api, job, lambda now: now["progress"] > 0.1)
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


def test_a_job_survives_the_gateway(make_stack: MakeStack, sample_files: FileServer, client: MakeClient) -> None:
    with make_stack() as stack:
        api = client(stack)
        job = api.submit("img2vid", img2vid(sample_files, **LONG))
        until(api, job, lambda now: now["progress"] > 0.1)
        kill_tree(stack.process("gateway").pid)
        stack.process("gateway").wait()
        stack.start_gateway()
        eventually(lambda: answers(stack))
        job = ended(api, job, 90)
    assert job["status"] == "completed"
    assert job["stats"]["tries"] == 1


def test_a_cancelled_job_stops_ffmpeg(make_stack: MakeStack, sample_files: FileServer, client: MakeClient) -> None:
    with make_stack() as stack:
        api = client(stack)
        job = api.submit("img2vid", img2vid(sample_files, **LONG))
        until(api, job, lambda now: now["progress"] > 0.1)
        encoders = ffmpeg_children(stack.process("worker").pid)
        assert encoders
        freeze(encoders)
        headers = {"X-API-Key": stack.api_key}
        answer = requests.delete(f"{stack.url}/jobs/{job['jobId']}", headers=headers, timeout=30)
        assert answer.json()["status"] == "cancelled"
        eventually(lambda: not any(alive(pid) for pid in encoders))
        # the worker is free again
        assert ended(api, api.submit("img2vid", img2vid(sample_files)))["status"] == "completed"


def test_a_full_disk_at_upload_fails_the_job_with_its_code(
    make_stack: MakeStack, sample_files: FileServer, client: MakeClient, tmp_path: Path
) -> None:
    stack = make_stack(MIN_FREE_DISK_PERCENT="0", QUEUE_LIMIT_SECONDS="60")
    disk = tmp_path / "data" / "files"
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with stack:
            api = client(stack)
            job = ended(api, api.submit("img2vid", img2vid(sample_files, duration=1)), 120)
            left = list(disk.rglob("*.mp4")) + list(disk.rglob(".part-*"))
    finally:
        subprocess.run(["umount", disk], check=True)
    assert (job["status"], job["error"]["code"]) == ("failed", "storage_full")
    assert left == []
