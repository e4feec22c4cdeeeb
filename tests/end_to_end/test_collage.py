"""An operation of the tests' own, alone in a copy of the product: its assets, outputs and result go the whole way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.client import Client
from scripts.stack import Stack, free_port
from tests.collage.tree import plant
from tests.conftest import SAMPLES
from tests.emulators import runpod, vast
from tests.end_to_end.conftest import ended
from tests.s3 import BUCKET, KEY, s3_server
from tests.servers import FileServer, Reply, eventually

pytestmark = pytest.mark.slow

Begin = Callable[..., Stack]
OUTPUTS = {
    "sheet": ("image/png", b"\x89PNG"),
    "poster": ("image/jpeg", b"\xff\xd8"),
    "report": ("application/json", b"{"),
}


@pytest.fixture
def begin(tmp_path: Path, files: FileServer) -> Iterator[Begin]:
    """Starts a gateway, and a worker where the provider is `local`, in which `collage` is the only operation."""
    for name in ("photo.jpg", "narration.mp3", "captions.en.srt"):
        files.routes[f"/{name}"] = Reply(body=(SAMPLES / name).read_bytes())
    (tmp_path / "root").mkdir()
    root = plant(tmp_path / "root")
    made: list[Stack] = []

    def make(port: int, **environ: str) -> Stack:
        origins = ",".join(filter(None, (files.origin, environ.pop("FETCH_ALLOW_ORIGINS", ""))))
        environ = {"WEBHOOK_ALLOW_ORIGINS": files.origin, **environ, "FETCH_ALLOW_ORIGINS": origins}
        made.append(Stack(tmp_path / "data", tmp_path / "logs", port=port, environ=environ, root=root))
        return made[-1].__enter__()

    yield make
    for stack in made:
        stack.stop()


def workers(root: Path, files: FileServer, port: int) -> dict[str, str]:
    """The variables of a provider's workers."""
    origins = f"{files.origin},http://127.0.0.1:{port}"
    return {"PYTHONPATH": str(root), "FETCH_ALLOW_ORIGINS": origins}


def check(stack: Stack, files: FileServer, seconds: float = 90) -> dict[str, Any]:
    """One job the whole way. Returns its document."""
    client = Client(stack.url, stack.api_key)
    photo, sound, text = (files.url(f"/{name}") for name in ("photo.jpg", "narration.mp3", "captions.en.srt"))
    params = {
        "scenes": [
            {"url_image": photo, "narration": {"url_audio": sound}},
            {"url_image": client.upload(SAMPLES / "photo.jpg")},
            {"url_image": photo},
        ],
        "url_texts": [text, text],
        "webhook_url": files.url("/hook"),
    }
    files.routes["/hook"] = Reply(204)
    job = ended(client, client.submit("collage", params), seconds)
    assert job["status"] == "completed", job
    sizes = {name: (SAMPLES / name).stat().st_size for name in ("photo.jpg", "narration.mp3", "captions.en.srt")}
    assert job["result"] == {
        "files": 4,
        "sizes": {
            "scenes[0].url_image": sizes["photo.jpg"],
            "scenes[0].narration.url_audio": sizes["narration.mp3"],
            "scenes[1].url_image": sizes["photo.jpg"],
            "scenes[2].url_image": sizes["photo.jpg"],
            "url_texts[0]": sizes["captions.en.srt"],
            "url_texts[1]": sizes["captions.en.srt"],
        },
    }
    assert (job["stats"]["width"], job["stats"]["height"]) == (96, 32)
    assert "video_url" not in job
    assert list(job["outputs"]) and set(job["outputs"]) == set(OUTPUTS)
    for name, (mime, head) in OUTPUTS.items():
        output = job["outputs"][name]
        answer = requests.get(output["url"], timeout=10)
        assert (output["content_type"], answer.headers["Content-Type"]) == (mime, mime)
        assert len(answer.content) == output["size_bytes"] and answer.content.startswith(head)
    eventually(lambda: [request for request in files.requests if request.path == "/hook"])
    (hook,) = [request for request in files.requests if request.path == "/hook"]
    sent = json.loads(hook.body)["data"]
    assert sent["result"] == job["result"] and set(sent["outputs"]) == set(OUTPUTS)
    assert requests.get(sent["outputs"]["report"]["url"], timeout=10).json()["sizes"] == job["result"]["sizes"]
    assert [request.path for request in files.requests].count("/photo.jpg") == 1, "equal URLs are fetched once"
    client.close()
    return job


def test_with_a_worker_of_our_own(begin: Begin, files: FileServer) -> None:
    stack = begin(free_port())
    job = check(stack, files)
    stored = {path.name: path for path in (stack.data_dir / "files/outputs" / job["jobId"]).rglob("*.*")}
    assert set(stored) == {"sheet.png", "poster.jpg", "report.json"}
    page = requests.get(f"{stack.url}/openapi.json", timeout=10).json()
    assert [path for path in page["paths"] if path.startswith("/video/")] == ["/video/collage"]


def test_with_runpod(begin: Begin, files: FileServer, tmp_path: Path) -> None:
    port = free_port()
    config = runpod.Config(
        env=workers(tmp_path / "root", files, port), cold_start_s=0, queue_delay_s=0, min_workers=1, max_workers=1
    )
    with runpod.Emulator(config) as platform:
        check(begin(port, **platform.gateway_environ), files)


def test_with_vast_ai(begin: Begin, files: FileServer, tmp_path: Path) -> None:
    port = free_port()
    config = vast.Config(env=workers(tmp_path / "root", files, port), boot_s=1, spacing={}, searches_a_minute=10_000)
    with vast.Emulator(config) as platform:
        stack = begin(port, **platform.gateway_environ)
        try:
            check(stack, files)
        finally:
            stack.stop()


def test_with_s3(begin: Begin, files: FileServer) -> None:
    with s3_server() as origin:
        s3 = {"S3_BUCKET": BUCKET, "S3_ENDPOINT_URL": origin, "S3_ACCESS_KEY_ID": KEY, "S3_SECRET_ACCESS_KEY": KEY}
        stack = begin(free_port(), STORAGE="s3", FETCH_ALLOW_ORIGINS=origin, **s3)
        job = check(stack, files)
        assert not [path for path in (stack.data_dir / "files").rglob("*") if path.is_file()]
        assert all(output["url"].startswith(f"{origin}/{BUCKET}/") for output in job["outputs"].values())
