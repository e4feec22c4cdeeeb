"""A film in one job, compared with a chain of single jobs and with one FFmpeg command. Takes up to ten minutes.

The film has 12 seconds of 1080p30: four photographs and two clips of two seconds each, a narration, music under it and
captions of words. The chain makes every scene with the best single job for it, joins them, adds both sounds and
captions, and encodes what each of these jobs encodes. The command is one `filter_complex`, as skilled users write it.
Ratios are theirs ÷ ours; both run in turns.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from bench.figures import Figure, in_turns, rounded
from bench.media import SAMPLES, ffmpeg, mosaic
from ffmpeg_ops.compose import run as composing
from ffmpeg_ops.engine import memory, probe
from ffmpeg_ops.engine.encoders import Encoder
from ffmpeg_ops.operation import OPERATIONS, Work
from wire.envelope import Limits

RATE, SCENE_S, FADE_S, SCENES = 30, 2, 0.5, 6
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p"]
LOSSLESS = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-pix_fmt", "yuv420p"]
_CHAIN = "the chain of single jobs ÷ one job"
WORDS = tuple(f"word{i}" for i in range(20))


def measure() -> list[Figure]:
    probe.best()  # probed once, as in a running worker
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as name:
        bench = _Bench(Path(name))
        return [
            *_with_fades(bench),
            *_with_cuts(bench),
            *_sources(bench),
            *_memory(bench),
            *_drift(bench),
        ]


class _Bench:
    """The files of the film, and the ways to make it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = [self._photo(i) for i in range(4)]
        self.clips = [self._clip(i) for i in range(2)]
        self.voice, self.music = folder / "voice.mp3", folder / "music.mp3"
        ffmpeg("-stream_loop", "1", "-i", SAMPLES / "narration.mp3", "-c:a", "libmp3lame", self.voice)
        ffmpeg("-f", "lavfi", "-i", "anoisesrc=color=pink:amplitude=0.3:duration=20", self.music)
        self.words = [{"word": word, "start": i * 0.55, "end": i * 0.55 + 0.5} for i, word in enumerate(WORDS)]
        #: Photograph or clip of each scene.
        self.sources = [self.photos[0], self.clips[0], self.photos[1], self.photos[2], self.clips[1], self.photos[3]]

    def _photo(self, number: int) -> Path:
        path = self.folder / f"photo-{number}.jpg"
        whole = Image.open(mosaic(self.folder, 2560 + 16 * number, 1440 + 9 * number)).convert("RGB")
        whole.rotate(90 * (number % 2) * 2).save(path, quality=95)
        return path

    def _clip(self, number: int) -> Path:
        path = self.folder / f"clip-{number}.mp4"
        looks = ["-vf", f"scale=1920:1080:flags=lanczos{',hflip' if number else ''}"]
        ffmpeg("-stream_loop", "1", "-i", SAMPLES / "video.mp4", *looks, *X264[:4], "-crf", "14", "-t", "6", path)
        return path

    def film(self, *, fades: bool) -> dict[str, Any]:
        """The params of the film, with the paths of its files for URLs."""
        scenes: list[dict[str, Any]] = []
        for source in self.sources:
            is_clip = source in self.clips
            scene = {"url_video": source, "start": 1, "volume": 0} if is_clip else {"url_image": source}
            scenes.append({**scene, "duration": SCENE_S})
            if fades and len(scenes) > 1:
                scenes[-1]["transition"] = {"type": "crossfade", "duration": FADE_S}
        return {
            "size": "16:9",
            "frame_rate": RATE,
            "scenes": scenes,
            "narration": {"url_audio": self.voice},
            "music": {"url_audio": self.music},
            "captions": {"words": self.words},
        }

    def chain(self, made: Path, *, fades: bool) -> None:
        """Make the film with one job after the other."""
        parts = [self.folder / f"part-{i}.mp4" for i in range(SCENES)]
        for i, (source, part) in enumerate(zip(self.sources, parts, strict=True)):
            seconds = SCENE_S + (FADE_S if fades and i + 1 < SCENES else 0)
            if source in self.clips:
                cut = self.folder / "cut.mp4"
                _run("trim", {"url_video": source, "start": 1, "duration": seconds}, cut)
                _run("convert", {"url_video": cut, "size": "16:9", "frame_rate": RATE, "sound": "none"}, part)
            else:
                _run("img2vid", {"url_image": source, "duration": seconds, "frame_rate": RATE, "size": "16:9"}, part)
        joined, spoken, scored = (self.folder / f"{name}.mp4" for name in ("joined", "spoken", "scored"))
        if fades:
            _crossfaded(parts, joined)
        else:
            _run("join", {"url_videos": parts}, joined)
        _run("adicionaAudio", {"url_video": joined, "url_audio": self.voice}, spoken)
        under = {"mode": "mix", "volume": 0.2, "loop": True, "ducking": "new"}
        _run("adicionaAudio", {"url_video": spoken, "url_audio": self.music, **under}, scored)
        _run("caption", {"url_video": scored, "words": self.words}, made)


def _with_fades(bench: _Bench) -> Iterator[Figure]:
    film, made, script = bench.film(fades=True), bench.folder / "ours.mp4", bench.folder / "captions.ass"
    with tempfile.TemporaryDirectory() as directory:
        _run("compose", film, made, Path(directory))
        script.write_bytes((Path(directory) / "captions.ass").read_bytes())
    times = in_turns(
        "compose, fades",
        {
            "chain": lambda: bench.chain(bench.folder / "theirs.mp4", fades=True),
            "one command": lambda: _one_command(bench, script, bench.folder / "peer.mp4"),
            "ours": lambda: _run("compose", film, made),
        },
    )
    yield Figure("compose.fades_ratio", rounded(times["chain"] / times["ours"]), "×", "≥ 2.3", _CHAIN)
    ratio = times["one command"] / times["ours"]
    yield Figure("compose.peer_ratio", rounded(ratio), "×", "≥ 1", "one filter_complex ÷ one job, fades")


def _with_cuts(bench: _Bench) -> Iterator[Figure]:
    film, ours, theirs, exact = bench.film(fades=False), *(bench.folder / f"{name}.mp4" for name in ("a", "b", "c"))
    tasks = {"chain": lambda: bench.chain(theirs, fades=False), "ours": lambda: _run("compose", film, ours)}
    times = in_turns("compose, cuts", tasks, runs=3)
    yield Figure("compose.cuts_ratio", rounded(times["chain"] / times["ours"]), "×", "≥ 1.5", _CHAIN)
    with mock.patch.object(Encoder, "arguments", LOSSLESS):
        _run("compose", film, exact)
    gain = _psnr(ours, exact) - _psnr(theirs, exact)
    yield Figure("compose.psnr_gain_db", rounded(gain), "dB", "> 0", "one job − chain, hard cuts, to a lossless film")


def _one_command(bench: _Bench, script: Path, made: Path) -> None:
    inputs: list[object] = []
    chains: list[str] = []
    for i, source in enumerate(bench.sources):
        seconds = SCENE_S + (FADE_S if i + 1 < SCENES else 0)
        if source in bench.clips:
            inputs += ["-ss", 1, "-t", seconds, "-i", source]
            chains.append(f"[{i}:v]scale=1920:1080,fps={RATE},settb=AVTB,format=yuv420p[s{i}]")
        else:
            inputs += ["-i", source]
            zoom = (
                f"zoompan=z='1+0.324*on/{seconds * RATE}':x='iw/2-iw/zoom/2':y='ih/2-ih/zoom/2':d={seconds * RATE:.0f}"
            )
            chains.append(f"[{i}:v]scale=6720:3780,{zoom}:s=1920x1080:fps={RATE},settb=AVTB,format=yuv420p[s{i}]")
    before = "s0"
    for i in range(1, SCENES):
        chains.append(f"[{before}][s{i}]xfade=transition=fade:duration={FADE_S}:offset={i * SCENE_S}[x{i}]")
        before = f"x{i}"
    chains.append(f"[{before}]ass={script}[video]")
    voice, music = SCENES, SCENES + 1
    chains.append(f"[{voice}:a]aformat=channel_layouts=stereo,apad,asplit[voice][key]")
    chains.append(f"[{music}:a]aformat=channel_layouts=stereo,volume=0.2[low]")
    chains.append("[low][key]sidechaincompress=threshold=0.02:ratio=6:attack=15:release=350[under]")
    chains.append("[voice][under]amix=inputs=2:normalize=0,alimiter=limit=0.89[sound]")
    inputs += ["-i", bench.voice, "-stream_loop", "-1", "-i", bench.music, "-filter_complex", ";".join(chains)]
    ffmpeg(*inputs, "-map", "[video]", "-map", "[sound]", *X264, "-c:a", "aac", "-t", SCENES * SCENE_S, made)


def _crossfaded(parts: list[Path], made: Path) -> None:
    """What no job of ours does alone: one encode with a crossfade between all parts."""
    inputs = [word for part in parts for word in ("-i", part)]
    chains, before = list[str](), "0:v"
    for i in range(1, SCENES):
        chains.append(f"[{before}][{i}:v]xfade=transition=fade:duration={FADE_S}:offset={i * SCENE_S}[x{i}]")
        before = f"x{i}"
    ffmpeg(*inputs, "-filter_complex", ";".join(chains), "-map", f"[{before}]", *X264, made)


def _sources(bench: _Bench) -> Iterator[Figure]:
    """How many frames of the film are made in a second, without encoding them."""
    with tempfile.TemporaryDirectory() as directory:
        drawn: list[float] = []

        def timed(film: Any, work: Work, encoding: Any, frames: Callable[[], Iterator[bytes]]) -> Any:
            started = time.perf_counter()
            count = sum(1 for _ in frames())
            drawn.append(count / (time.perf_counter() - started))
            raise _Enough

        with mock.patch.object(composing, "encode", timed):
            for _ in range(3):
                try:
                    _run("compose", bench.film(fades=True), bench.folder / "unused.mp4", Path(directory))
                except _Enough:
                    continue
    yield Figure(
        "compose.source_fps", rounded(sorted(drawn)[1]), "frames/s", "", "frames of 1080p with fades, not encoded"
    )


class _Enough(Exception):
    """The frames were drawn."""


def _memory(bench: _Bench) -> Iterator[Figure]:
    """The peak of resident memory, with 40 pictures and with 6."""
    peaks = {}
    for count in (6, 40):
        scenes = [{"url_image": bench.photos[i % 4], "duration": 0.5} for i in range(count)]
        for scene in scenes[1:]:
            scene["transition"] = {"type": "crossfade", "duration": 0.2}
        film = {"size": "16:9", "frame_rate": RATE, "scenes": scenes}
        peaks[count] = _peak(lambda film=film: _run("compose", film, bench.folder / "unused.mp4"))  # type: ignore[misc]
    meaning = f"peak with 40 pictures ÷ with 6: {peaks[40] / 1e6:.0f} and {peaks[6] / 1e6:.0f} MB"
    yield Figure("compose.rss_ratio", rounded(peaks[40] / peaks[6]), "×", "≤ 1.3", meaning)


def _peak(task: Callable[[], object]) -> int:
    """The largest resident memory of this process and its children, in bytes, while a task runs."""
    done, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, memory.resident_bytes([os.getpid()]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    task()
    done.set()
    watcher.join()
    return peak


def _drift(bench: _Bench) -> Iterator[Figure]:
    """A hundred clips of six rates, each with a flash and a click after 0.3 s."""
    clips = [_flashing(bench.folder, rate) for rate in ("24", "25", "30000/1001", "30", "50", "60000/1001")]
    scenes = [{"url_video": clips[i % len(clips)], "duration": 0.7} for i in range(100)]
    made = bench.folder / "drift.mp4"
    _run("compose", {"size": "160x90", "frame_rate": RATE, "scenes": scenes}, made)
    luma = np.frombuffer(_output("-i", made, "-f", "rawvideo", "-pix_fmt", "gray", "-"), np.uint8).reshape(-1, 90 * 160)
    bright = np.flatnonzero(luma.mean(1) > 100)
    flashes = bright[np.diff(bright, prepend=-10) > 3] / RATE
    wave = np.abs(np.frombuffer(_output("-i", made, "-ac", "1", "-f", "s16le", "-"), np.int16).astype(float))
    loud = np.flatnonzero(wave > 6000)
    clicks = loud[np.diff(loud, prepend=-10_000) > 9600] / 48_000
    if len(flashes) != len(scenes) or len(clicks) != len(scenes):
        raise RuntimeError(f"{len(flashes)} flashes and {len(clicks)} clicks of {len(scenes)} were found")
    drift = float(np.abs(flashes - clicks).max()) * RATE
    yield Figure("compose.drift_frames", rounded(drift), "frames", "≤ 1", "largest distance of a flash and its click")


def _flashing(folder: Path, rate: str) -> Path:
    path = folder / f"flash-{Fraction(rate).limit_denominator(1001)}.mp4".replace("/", "_")
    first = math.ceil(Fraction(rate) * Fraction(3, 10))
    flash = f"drawbox=c=white:t=fill:enable='between(n,{first},{first + 3})'"
    picture = f"color=black:size=320x180:rate={rate}:duration=1,{flash}"
    at = float(first / Fraction(rate))
    click = f"aevalsrc='0.6*between(t,{at},{at + 0.02})*sin(2*PI*2000*t)':s=48000:d=1"
    ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", click, *X264, "-c:a", "aac", "-b:a", "192k", path)
    return path


def _run(name: str, params: dict[str, Any], made: Path, directory: Path | None = None) -> None:
    """Run an operation in a private directory, as on a worker. A Path in params stands for the URL of that file."""
    if directory is None:
        with tempfile.TemporaryDirectory() as private:
            return _run(name, params, made, Path(private))
    operation, files = OPERATIONS[name], dict[str, Path]()
    loaded = operation.params().load(_with_urls(params, files))
    assets = {asset.path: files[asset.url] for asset in operation.named_assets(loaded)}
    work = Work(directory, Limits(max_output_bytes=1_000_000_000), outputs=operation.outputs(loaded))
    operation.run(work, loaded, assets)
    work.output("video").rename(made)
    return None


def _with_urls(value: Any, files: dict[str, Path]) -> Any:
    if isinstance(value, Path):
        files[f"http://x/{value.name}"] = value
        return f"http://x/{value.name}"
    if isinstance(value, dict):
        return {key: _with_urls(each, files) for key, each in value.items()}
    return [_with_urls(each, files) for each in value] if isinstance(value, list) else value


def _psnr(made: Path, exact: Path) -> float:
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-i", made, "-i", exact, "-lavfi", "psnr", "-f", "null", "-"]
    printed = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stderr
    return float(re.findall(r"PSNR y:([\d.]+)", printed)[-1])


def _output(*arguments: object) -> bytes:
    command = ["ffmpeg", "-nostdin", "-v", "error", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
