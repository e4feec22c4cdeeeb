"""Fixtures of the worker's tests: tiny media made with FFmpeg, a gateway, short waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handler import attempt, events, fetch, upload
from handler.settings import Settings
from tests.ffmpeg_ops.media import X264, ffmpeg
from tests.handler.support import Gateway, Job
from tests.servers import FileServer, Reply

TOKEN, KEY = "t" * 32, "k" * 32
LONG = {"duration": 60, "frame_rate": 60}
SRT = "1\n00:00:00,100 --> 00:00:00,900\nOlá\n"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that take seconds in production take hundredths here. Limits stay: a busy machine must not reach them."""
    monkeypatch.setattr(events, "PERIOD_S", 0.05)
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(fetch, "PAUSES_BUSY_S", (0.01,) * 5)
    monkeypatch.setattr(fetch, "BUSY_S", 0.05)
    monkeypatch.setattr(fetch, "_MIN_RETRY_AFTER_S", 0.01)
    monkeypatch.setattr(fetch, "_MAX_RETRY_AFTER_S", 0.01)
    monkeypatch.setattr(upload, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(upload, "PAUSES_FULL_S", (0.01, 0.01))
    monkeypatch.setattr(attempt, "STOP_GRACE_S", 0.3)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with video.mp4, silent.mp4, sound.wav, image.png, captions.srt and page.html."""
    folder = tmp_path_factory.mktemp("media")
    picture = ["-f", "lavfi", "-i", "testsrc=size=128x72:rate=10:duration=1"]
    sine = ["-f", "lavfi", "-i", "sine=duration=1"]
    small = X264.split()
    ffmpeg(*picture, *sine, *small, "-c:a", "aac", "video.mp4", cwd=folder)
    ffmpeg(*picture, *small, "silent.mp4", cwd=folder)
    ffmpeg(*sine, "sound.wav", cwd=folder)
    ffmpeg(*picture, "-frames:v", "1", "image.png", cwd=folder)
    (folder / "captions.srt").write_text(SRT, encoding="utf-8")
    (folder / "page.html").write_text("<!DOCTYPE html><html><body>Not the file</body></html>", encoding="utf-8")
    return folder


@pytest.fixture
def server() -> Iterator[Callable[[], FileServer]]:
    """Starts servers; they are closed in the background, because closing waits for the server's poll."""
    started: list[FileServer] = []

    def start() -> FileServer:
        started.append(FileServer())
        return started[-1]

    yield start
    for one in started:
        threading.Thread(target=one.close, daemon=True).start()


@pytest.fixture
def files(media: Path, server: Callable[[], FileServer]) -> FileServer:
    """A file server on loopback with all of `media`."""
    files = server()
    for path in media.iterdir():
        files.routes[f"/{path.name}"] = Reply(body=path.read_bytes())
    return files


@pytest.fixture
def gateway(server: Callable[[], FileServer]) -> Gateway:
    return Gateway(server())


@pytest.fixture
def settings(tmp_path: Path, files: FileServer) -> Settings:
    return Settings(
        work_dir=tmp_path / "work",
        output_dir=tmp_path / "output",
        fetch_allow_origins=(files.origin,),
        session_token=TOKEN,
        worker_api_key=KEY,
        allowed_ips=("127.0.0.1",),
    )


@pytest.fixture
def caption(files: FileServer, gateway: Gateway, settings: Settings) -> Job:
    return Job(
        "caption", {"url_video": files.url("/video.mp4"), "url_srt": files.url("/captions.srt")}, gateway, settings
    )


@pytest.fixture
def img2vid(files: FileServer, gateway: Gateway, settings: Settings) -> Job:
    """A short job; with **LONG it encodes for a minute."""
    return Job("img2vid", {"url_image": files.url("/image.png"), "duration": 0.2}, gateway, settings)


@pytest.fixture
def adiciona_audio(files: FileServer, gateway: Gateway, settings: Settings) -> Job:
    params = {"url_video": files.url("/video.mp4"), "url_audio": files.url("/sound.wav")}
    return Job("adicionaAudio", params, gateway, settings)
