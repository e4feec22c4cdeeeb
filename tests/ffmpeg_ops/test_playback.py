"""Outputs start to play before all of their bytes have arrived, and a browser plays them to the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.operation import OPERATIONS
from tests.ffmpeg_ops.media import Media, VideoWork, boxes, run
from tests.servers import FileServer, Reply, eventually

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
SRT = "1\n00:00:00,000 --> 00:01:00,000\nOi\n"
SECONDS = 2.0
PLAYER = """<!doctype html><canvas width=32 height=18></canvas><video src=/video.mp4></video><script>
const video = document.querySelector("video"), canvas = document.querySelector("canvas").getContext("2d");
let times = 0, range = [];
const report = (end) => fetch("/report", {method: "POST", body: JSON.stringify({
  end, times, range, width: video.videoWidth, height: video.videoHeight, seconds: video.duration,
  frames: video.getVideoPlaybackQuality().totalVideoFrames})});
video.ontimeupdate = () => {
  times++;
  canvas.drawImage(video, 0, 0, 32, 18);
  const pixels = canvas.getImageData(0, 0, 32, 18).data.filter((_, i) => i % 4 < 3);
  range = [Math.min(...pixels), Math.max(...pixels)];
};
video.onended = () => report("ended");
video.onerror = () => report(video.error.message);
video.play().catch((error) => report(String(error)));
</script>"""


def made(name: str, media: Media, work: VideoWork, **more: Any) -> Path:
    """The output of an operation on small media."""
    params = {
        "caption": {"subtitles": SRT},
        "img2vid": {"duration": SECONDS, "size": "320x180"},
        "adicionaAudio": {"mode": "mix"},
    }
    assets = {
        "video": media.video("320x180", SECONDS),
        "audio": media.tone(SECONDS, "mp3"),
        "image": media.made("still.jpg", "-f lavfi -i testsrc2=size=400x300 -frames:v 1"),
    }
    given = {param: assets[kind] for param, kind in OPERATIONS[name].asset_kinds.items() if kind in assets}
    run(name, work, {**params.get(name, {}), **more}, **given)
    return work.video


@pytest.mark.parametrize("name", ["caption", "img2vid", "adicionaAudio"])
def test_the_index_stands_before_what_it_lists(name: str, media: Media, work: VideoWork) -> None:
    found = [kind for kind, _ in boxes(made(name, media, work).read_bytes())]
    assert found[0] == b"ftyp"
    assert found.index(b"moov") < found.index(b"mdat")


@contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    assert CHROMIUM is not None
    switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command = [CHROMIUM, *switches, "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}", url]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(
    ("name", "codec"), [("caption", "h264"), ("img2vid", "h264"), ("adicionaAudio", "h264"), ("caption", "av1")]
)
def test_chromium_plays_it_to_the_end(
    name: str, codec: str, media: Media, work: VideoWork, files: FileServer, tmp_path: Path
) -> None:
    """From a server without Range requests: the file must begin with all that is needed."""
    video = made(name, media, work, encoding={"codec": codec})
    files.routes = {
        "/": Reply(body=PLAYER.encode(), headers={"Content-Type": "text/html"}),
        "/video.mp4": Reply(body=video.read_bytes(), headers={"Content-Type": "video/mp4"}),
        "/report": Reply(204),
    }
    with browser(files.url("/"), tmp_path / "profile"):
        eventually(lambda: any(request.path == "/report" for request in files.requests), seconds=60)
    report = json.loads(next(request.body for request in files.requests if request.path == "/report"))
    assert report["end"] == "ended"
    assert (report["width"], report["height"]) == (320, 180)
    assert report["seconds"] == pytest.approx(SECONDS, abs=0.06)
    assert report["times"] >= 3
    low, high = report["range"]
    assert low < 60 and high > 180, "a picture, not a black or an even one"
