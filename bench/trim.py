"""Fifty random cuts of videos whose frames can be told apart: how many frames are wrong. Takes about a minute."""

from __future__ import annotations

import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import Figure
from bench.media import ffmpeg
from ffmpeg_ops.operation import OPERATIONS, Work
from wire.envelope import Limits

CUTS = 50
FRAMES, RATE = 300, 30000 / 1001
SIZE = (64, 48)
_STEP, _LOW, _LEVELS = 4, 20, 50
# B-frames, whose packets are stored in another order than they are shown, and a container of each kind.
_CONTAINERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mp4", ()),
    ("mkv", ()),
    ("ts", ("-output_ts_offset", "-0.1", "-avoid_negative_ts", "disabled")),
)


def measure() -> list[Figure]:
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as name:
        videos = [_video(Path(name), extension, options) for extension, options in _CONTAINERS]
        off = [error for i in range(CUTS // 10) for error in _cut(videos[i % len(videos)], chance)]
    meaning = f"frames that are missing, too many or wrong in {len(off)} random cuts of MP4, MKV and TS with B-frames"
    return [Figure("trim.frames_off", sum(off), "", "0", meaning)]


def _video(folder: Path, extension: str, options: Sequence[str]) -> Path:
    """A gray video in which the levels of the left and the right half give the number of each frame."""
    path = folder / f"numbered.{extension}"
    digit = f"if(lt(X,{SIZE[0] // 2}),mod(N,{_LEVELS}),floor(N/{_LEVELS}))"
    level = f"lum='{_LOW}+{_STEP}*{digit}':cb=128:cr=128"
    source = f"color=black:size={SIZE[0]}x{SIZE[1]}:rate=30000/1001,geq={level}"
    encoder = ["-c:v", "libx264", "-bf", "3", "-g", "40", "-qp", "6", "-pix_fmt", "yuv420p"]
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", FRAMES, *encoder, *options, path)
    return path


def _cut(video: Path, chance: random.Random) -> Iterator[int]:
    """Ten random parts in one job: for each how many of its frames are wrong."""
    starts = [chance.randrange(FRAMES - 1) for _ in range(10)]
    cuts = [(start, chance.randint(1, min(30, FRAMES - start))) for start in starts]
    parts = [{"start": start / RATE, "duration": count / RATE} for start, count in cuts]
    params: dict[str, Any] = {"url_video": "https://example.com/video.mp4", "parts": parts}
    operation = OPERATIONS["trim"]
    with tempfile.TemporaryDirectory() as directory:
        work = Work(Path(directory), Limits())
        operation.run(work, operation.params().load(params), {"url_video": video})
        found = _numbers(work.output("video"))
    for start, count in cuts:
        part, found = found[:count], found[count:]
        yield sum(a != b for a, b in zip(part, range(start, start + count), strict=False)) + count - len(part)
    yield from [len(found)] if found else []


def _numbers(path: Path) -> list[int]:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"]
    raw = np.frombuffer(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, np.uint8)
    luma = raw.reshape(-1, SIZE[1] * 3 // 2, SIZE[0])[:, : SIZE[1]].astype(float)
    halves = luma[:, :, : SIZE[0] // 2 - 4], luma[:, :, SIZE[0] // 2 + 4 :]
    values = [np.rint((half.mean((1, 2)) - _LOW) / _STEP).astype(int) for half in halves]
    return [int(low + _LEVELS * high) for low, high in zip(*values, strict=True)]
