"""The operations compared with the FFmpeg pipelines that are usually recommended for the same task, both on the CPU.

Theirs, with libx264 `-preset veryfast -crf 23`: captions with the `subtitles` filter, the moving shot with `scale` to
6720×3840 and `zoompan`, sound with a new encode of video and audio. The photographs are mirrored copies of the sample
at its own resolution, so that they are as sharp as real photographs. Ratios are theirs ÷ ours.
"""

from __future__ import annotations

import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pysubs2
from PIL import Image

from bench.figures import Figure, rounded, side_by_side
from ffmpeg_ops.engine import probe
from ffmpeg_ops.engine.stills import frames, shot
from ffmpeg_ops.engine.stills.camera import Move
from ffmpeg_ops.operation import OPERATIONS, Work
from wire.envelope import Limits

SAMPLES = Path(__file__).parent.parent / "samples"
SIZE, COUNT = (1920, 1080), 120
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23"]
ZOOMPAN = "scale=6720:3840:flags=lanczos,zoompan=z='min(1+0.324*on/120,1.324)':d=120:s=1920x1080:fps=24,format=nv12"
# This zoompan expression moves towards the top left corner.
THEIR_MOVE = Move(focus=(0.0, 0.0))


def measure() -> list[Figure]:
    probe.best()  # probed once, as in a running worker
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as name:
        folder = Path(name)
        return [*_img2vid(folder), *_caption(folder), *_audio(folder)]


def _img2vid(folder: Path) -> Iterator[Figure]:
    photo, large = mosaic(folder, 2560, 1440), mosaic(folder, 6000, 4000)
    decoded, jpeg = folder / "decoded.bmp", folder / "photo.jpg"
    Image.open(photo).save(decoded)
    Image.open(photo).save(jpeg, quality=95)  # theirs is faster on YUV; decoding takes a hundredth of its time
    zoom = ["-i", jpeg, "-vf", ZOOMPAN, "-frames:v", str(COUNT)]
    theirs, ours = side_by_side(
        "img2vid, frames alone", lambda: ffmpeg(*zoom, "-f", "null", "-"), lambda: _frames(decoded, THEIR_MOVE)
    )
    yield Figure("img2vid.synthesis_ratio", rounded(theirs / ours), "×", "≥ 3", "from decoded photo to last raw frame")
    looped = ["-framerate", "24", "-loop", "1", "-i", jpeg, "-vf", ZOOMPAN, *X264, "-t", "5"]
    params = {"url_image": "http://x/", "focus_x": 0, "focus_y": 0}
    theirs, ours = side_by_side(
        "img2vid, whole", lambda: ffmpeg(*looped, folder / "z.mp4"), _operation("img2vid", params, {"url_image": jpeg})
    )
    yield Figure("img2vid.total_ratio", rounded(theirs / ours), "×", "", "from image file to MP4")
    yield Figure("img2vid.psnr_db", _psnr(photo), "dB", "≥ 45", "luma, mean of 13 frames, against exact Lanczos")
    yield Figure("img2vid.psnr_24mp_db", _psnr(large), "dB", "≥ 40", "the same from 24 megapixels")
    yield Figure("img2vid.jitter_px", _jitter(folder), "px", "≤ 0.05", "largest error of a step between decoded frames")


def _caption(folder: Path) -> Iterator[Figure]:
    video, cues = folder / "long.mp4", folder / "long.srt"
    ffmpeg("-stream_loop", "3", "-i", SAMPLES / "video.mp4", "-c", "copy", video)
    _repeated(SAMPLES / "captions.en.srt", 4, 5.28).save(str(cues))
    burn = ["-i", video, "-vf", f"subtitles={cues}", *X264, "-c:a", "copy", "-movflags", "+faststart"]
    theirs, ours = side_by_side(
        "caption",
        lambda: ffmpeg(*burn, folder / "c.mp4"),
        _operation(
            "caption", {"url_video": "http://x/", "url_srt": "http://x/"}, {"url_video": video, "url_srt": cues}
        ),
    )
    yield Figure(
        "caption.total_ratio", rounded(theirs / ours), "×", "≥ 0.95", "the sample four times over, 21 s of 720p"
    )


def _repeated(path: Path, times: int, every_s: float) -> pysubs2.SSAFile:
    whole = pysubs2.SSAFile()
    for i in range(times):
        part = pysubs2.load(str(path))
        part.shift(s=i * every_s)
        whole.events += part.events
    return whole


def _audio(folder: Path) -> Iterator[Figure]:
    minute, mp3, aac = folder / "minute.mp4", folder / "minute.mp3", folder / "minute.m4a"
    loop = ["-stream_loop", "-1", "-i", SAMPLES / "video.mp4", "-t", "60"]
    ffmpeg(*loop, "-vf", "scale=1920:1080", "-c:v", "libx264", "-preset", "ultrafast", "-an", minute)
    ffmpeg("-stream_loop", "-1", "-i", SAMPLES / "narration.mp3", "-t", "62", "-c:a", "libmp3lame", mp3)
    ffmpeg("-i", mp3, "-t", "62", "-c:a", "aac", "-b:a", "192k", aac)
    for name, sound, target in (("audio.total_ratio", mp3, "≥ 15"), ("audio.copy_ratio", aac, "≥ 100")):
        again = ["-i", minute, "-i", sound, "-map", "0:v", "-map", "1:a", *X264, "-c:a", "aac", "-shortest"]
        theirs, ours = side_by_side(
            name,
            lambda again=again: ffmpeg(*again, folder / "a.mp4"),  # type: ignore[misc]
            _operation(
                "adicionaAudio",
                {"url_video": "http://x/", "url_audio": "http://x/"},
                {"url_video": minute, "url_audio": sound},
            ),
        )
        yield Figure(name, rounded(theirs / ours), "×", target, f"a minute of 1080p, sound from {sound.suffix}")


def _frames(image: Path, move: Move) -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        loaded = shot.load(Work(Path(directory)), image, "image", move, SIZE, COUNT)
    return list(frames.render(loaded.pixels, loaded.boxes, SIZE))


def _psnr(photo: Path) -> float:
    move = Move()
    made = _frames(photo, move)
    with Image.open(photo) as opened:
        luma = Image.fromarray(frames.planes_of(np.asarray(opened.convert("RGB")))[0])
    boxes = move.boxes(luma.size, SIZE, COUNT)
    found = []
    for i in range(0, COUNT, 10):
        box = (boxes[i].left, boxes[i].top, boxes[i].left + boxes[i].width, boxes[i].top + boxes[i].height)
        exact = np.asarray(luma.resize(SIZE, Image.Resampling.LANCZOS, box), float)
        got = np.frombuffer(made[i], np.uint8)[: SIZE[0] * SIZE[1]].reshape(SIZE[1], SIZE[0])
        found.append(10 * math.log10(255**2 / np.mean((got - exact) ** 2)))
    return rounded(float(np.mean(found)))


def _jitter(folder: Path) -> float:
    """The largest error, in pixels, of a disc's movement between decoded frames of a finished video."""
    source, at = (2560, 1440), (1400.0, 800.0)
    y, x = np.mgrid[0 : source[1], 0 : source[0]]
    away = np.hypot(x + 0.5 - at[0], y + 0.5 - at[1])
    dot = 255 * np.clip((120 - away) / 4, 0, 1)  # a disc with an edge of four pixels
    path = folder / "dot.png"
    Image.fromarray(dot.astype(np.uint8)).save(path)
    with _ran("img2vid", {"url_image": "http://x/"}, {"url_image": path}) as video:
        raw = subprocess.run(
            ["ffmpeg", "-v", "error", "-i", video, "-f", "rawvideo", "-pix_fmt", "gray", "-"],
            capture_output=True,
            check=True,
        ).stdout
    luma = np.frombuffer(raw, np.uint8).reshape(COUNT, SIZE[1], SIZE[0]).astype(float) - 16
    luma[luma < 8] = 0  # the encoder's noise around the disc
    total = luma.sum((1, 2))
    seen = np.stack([(luma.sum(1) * np.arange(SIZE[0])).sum(1), (luma.sum(2) * np.arange(SIZE[1])).sum(1)]) / total
    boxes = Move().boxes(source, SIZE, COUNT)
    ideal = np.array(
        [
            [(at[0] - box.left) / box.width * SIZE[0] - 0.5 for box in boxes],
            [(at[1] - box.top) / box.height * SIZE[1] - 0.5 for box in boxes],
        ]
    )
    return round(float(np.abs(np.diff(seen) - np.diff(ideal)).max()), 3)


def mosaic(folder: Path, width: int, height: int) -> Path:
    """A PNG of mirrored copies of the sample photograph."""
    photo = np.asarray(Image.open(SAMPLES / "photo.jpg").convert("RGB"))
    row = np.concatenate([photo, photo[:, ::-1]] * math.ceil(width / photo.shape[1] / 2), 1)
    whole = np.concatenate([row, row[::-1]] * math.ceil(height / photo.shape[0] / 2), 0)[:height, :width]
    path = folder / f"{width}x{height}.png"
    Image.fromarray(whole).save(path, compress_level=1)
    return path


def _operation(name: str, params: dict[str, Any], assets: dict[str, Path]) -> Callable[[], None]:
    def run() -> None:
        with _ran(name, params, assets):
            pass

    return run


@contextmanager
def _ran(name: str, params: dict[str, Any], assets: dict[str, Path]) -> Iterator[Path]:
    """Run an operation in a private directory, as on a worker; the context variable is its output."""
    operation = OPERATIONS[name]
    with tempfile.TemporaryDirectory() as directory:
        work = Work(Path(directory), Limits(max_output_bytes=1_000_000_000))
        operation.run(work, operation.params().load(params), assets)
        yield work.output("video")


def ffmpeg(*arguments: object) -> None:
    """Run FFmpeg. Raises CalledProcessError."""
    subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *map(str, arguments)], check=True)
