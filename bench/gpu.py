"""What this machine's GPU does for the operations, for the first owner of one. Takes up to five minutes.

Speeds are frames a second of a 1080p source with film grain that FFmpeg decodes beforehand, medians of RUNS runs.
`quality` compares NVENC with libx264 `-preset veryfast` at the same size. Without NVIDIA's driver the figures are those
of the stand-in driver of the tests, which encodes on the CPU: they show that the bench works, and nothing of a GPU.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.figures import RUNS, Figure
from bench.media import SAMPLES
from ffmpeg_ops.engine import gpu, probe
from ffmpeg_ops.engine.encoders import LADDERS, X264, Encoder
from ffmpeg_ops.operation import OPERATIONS, Work
from tests.emulators import nvenc as stand_in
from wire.envelope import Limits

PRESETS = ("p1", "p4", "p7")
FRAMES = 250
MAX_SESSIONS = 12


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as name, _machine(Path(name)) as (gpu_name, frames):
        print(f"GPU: {gpu_name}", file=sys.stderr)
        source = _source(Path(name), frames)
        return [
            *_encodes(source, frames, gpu_name),
            *_captions(source, frames),
            *_shots(frames),
            *_quality(Path(name), source),
            _sessions(),
        ]


@contextmanager
def _machine(folder: Path) -> Iterator[tuple[str, int]]:
    """The GPU's name and the number of frames to measure with; the stand-in's where there is no driver."""
    if gpu.present():
        yield ", ".join(gpu.models()) or "unknown", FRAMES
        return
    if lacking := stand_in.missing():
        raise SystemExit(f"There is no NVIDIA driver here, and the stand-in cannot be built: {lacking} is missing.")
    driver = stand_in.Driver(folder / "driver", stand_in.build(folder / "libraries"))
    driver.set(log="")  # the sandbox does not admit it
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{driver.bin}{os.pathsep}{before}"
    try:
        yield "THE STAND-IN DRIVER OF THE TESTS, which encodes on the CPU", FRAMES // 25
    finally:
        os.environ["PATH"] = before


def _source(folder: Path, frames: int) -> Path:
    """A grainy 1080p video that decodes quickly."""
    grain = ["-stream_loop", "-1", "-i", SAMPLES / "video.mp4", "-vf", "scale=1920:1080,noise=alls=8:allf=t"]
    made = folder / "source.mp4"
    _ffmpeg(*grain, "-an", "-frames:v", frames, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", made)
    return made


def _encodes(source: Path, frames: int, gpu_name: str) -> Iterator[Figure]:
    for codec, (rung, *_) in LADDERS.items():
        found = probe.ask(rung)
        if found.failure is not None:
            print(f"{rung.name}: {found.failure.reason}", file=sys.stderr)
            continue
        for preset in PRESETS:
            options = _with_preset(found.encoder, preset)
            fps = _speed(frames, lambda options=options: _ffmpeg("-i", source, *options, "-f", "null", "-"))  # type: ignore[misc]
            yield Figure(f"{codec}.{preset}_fps", fps, "frames/s", "", f"{rung.name} on {gpu_name}")


def _with_preset(encoder: Encoder, preset: str) -> list[str]:
    return replace(encoder, options=tuple(preset if o == "p4" else o for o in encoder.options)).arguments


def _captions(source: Path, frames: int) -> Iterator[Figure]:
    params = {"url_video": "http://x/", "subtitles": "1\n00:00:00,000 --> 00:00:09,000\nA caption\n"}
    for name, on_gpu in (("software", False), ("cuda", True)):
        stats: dict[str, Any] = {}

        def run(on_gpu: bool = on_gpu, stats: dict[str, Any] = stats) -> None:
            stats |= _operation("caption", params, {"url_video": source}, decodes_on_gpu=on_gpu)

        fps = _speed(frames, run)
        how = f"caption, {stats['encoder']}, decoded by {'the GPU if it can' if on_gpu else 'the CPU'}"
        yield Figure(f"caption.{name}_fps", fps, "frames/s", "", "; ".join([how, *stats.get("warnings", [])]))


def _shots(frames: int) -> Iterator[Figure]:
    params = {"url_image": "http://x/", "size": "1920x1080", "duration": frames / 25, "frame_rate": 25}
    fps = _speed(frames, lambda: _operation("img2vid", params, {"url_image": SAMPLES / "photo.jpg"}))
    yield Figure("img2vid_fps", fps, "frames/s", "", "a moving shot of a photo in 1080p")


def _quality(folder: Path, source: Path) -> Iterator[Figure]:
    """PSNR of NVENC minus that of libx264, at the bitrate that NVENC chose for its standard quality."""
    for codec, (rung, *_) in LADDERS.items():
        found = probe.ask(rung)
        if found.failure is not None:
            continue
        ours, theirs = folder / "ours.mp4", folder / "theirs.mp4"
        _ffmpeg("-i", source, *found.encoder.arguments, ours)
        rate = round(ours.stat().st_size * 8 / _length_s(ours))
        x264 = ["-c:v", X264.name, *X264.options, "-b:v", rate]
        for number in (1, 2):
            end = ["-f", "null", "-"] if number == 1 else [theirs]
            _ffmpeg("-i", source, *x264, "-pass", number, "-passlogfile", folder / "pass", *end)
        gain = round(_psnr(source, ours) - _psnr(source, theirs), 2)
        yield Figure(
            f"{codec}.quality_db", gain, "dB", "", f"PSNR above libx264 veryfast in two passes at {rate // 1000} kbit/s"
        )


def _sessions() -> Figure:
    """How many encodes run at once before one is refused."""
    found = probe.ask(LADDERS["h264"][0])
    if found.failure is not None:
        return Figure("sessions", 0, "", "", found.failure.reason)
    source = ["-re", "-f", "lavfi", "-i", "color=size=1280x720:rate=25:duration=4"]  # longer than all starts take
    command = [*source, *found.encoder.arguments, "-f", "null", "-"]

    def runs(number: int) -> bool:
        time.sleep(number * 0.1)
        return subprocess.run(_command(*command), stderr=subprocess.DEVNULL).returncode == 0

    with ThreadPoolExecutor(MAX_SESSIONS) as pool:
        count = sum(pool.map(runs, range(MAX_SESSIONS)))
    return Figure("sessions", count, "", "", f"encodes at once, of {MAX_SESSIONS} that were tried")


def _speed(frames: int, run: Callable[[], object]) -> float:
    """Frames a second, the median of RUNS."""
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return round(frames / statistics.median(taken), 1)


def _operation(name: str, params: dict[str, Any], assets: dict[str, Path], **work: Any) -> dict[str, Any]:
    operation = OPERATIONS[name]
    with tempfile.TemporaryDirectory() as directory:
        context = Work(Path(directory), Limits(max_output_bytes=1_000_000_000), **work)
        return operation.run(context, operation.params().load(params), assets)


def _length_s(path: Path) -> float:
    shown = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(path)]
    return float(subprocess.check_output(shown, text=True))


def _psnr(reference: Path, made: Path) -> float:
    command = _command("-i", made, "-i", reference, "-lavfi", "psnr", "-f", "null", "-", level="info")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.findall(r"PSNR.* y:([\d.]+)", done.stderr)[-1])


def _command(*arguments: object, level: str = "error") -> list[str]:
    return ["ffmpeg", "-nostdin", "-y", "-hide_banner", "-v", level, *map(str, arguments)]


def _ffmpeg(*arguments: object) -> None:
    subprocess.run(_command(*arguments), check=True)
