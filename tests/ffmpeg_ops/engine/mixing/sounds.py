"""Sounds of exactly known samples, and what is heard of a mix of them."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.engine import inspect
from ffmpeg_ops.engine.mixing import mixer
from ffmpeg_ops.engine.mixing.mixer import Mixed
from ffmpeg_ops.engine.mixing.voice import Sound
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import ffmpeg

RATE = 48000
Wave = NDArray[np.float32]


def wav(path: Path, samples: NDArray[Any], rate: int = RATE) -> Path:
    """A WAV file of float samples: one channel, or as many as there are columns."""
    content = samples.astype("<f4").tobytes()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    form = struct.pack("<HHIIHH", 3, channels, rate, rate * channels * 4, channels * 4, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(content)) + content
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def sine(hz: float, seconds: float, amplitude: float = 0.1, rate: int = RATE) -> Wave:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def click(at: int, length: int) -> Wave:
    """Silence with one loud sample."""
    samples = np.zeros(length, np.float32)
    samples[at] = 0.5
    return samples


def sound(path: Path, work: Work, *, at: int = 0, samples: int | None = None, **fields: Any) -> Sound:
    """A sound of a file as it is heard, by default until far behind its end."""
    info, stream = inspect.audio_asset(path, path.stem, work)
    stream = replace(stream, start_s=stream.start_s - info.start_s)
    return Sound(path, stream, path.stem, at, 3600 * RATE if samples is None else samples, **fields)


def heard(sounds: list[Sound], samples: int, work: Work, **options: Any) -> Wave:
    """What is heard of a mix, as (samples, 2)."""
    return mixed(sounds, samples, work, **options)[1]


def mixed(sounds: list[Sound], samples: int, work: Work, **options: Any) -> tuple[Mixed, Wave]:
    made = work.directory / "sound.w64"
    found = mixer.mix(sounds, samples, made, work, **options)
    return found, decoded(made)


def decoded(path: Path) -> Wave:
    return np.frombuffer(ffmpeg("-i", path, "-f", "f32le", "-ac", "2", "-"), np.float32).reshape(-1, 2)


def clicks(wave: Wave, threshold: float = 0.2) -> list[int]:
    """The samples at which clicks are the loudest."""
    loud = np.flatnonzero(np.abs(wave[:, 0]) > threshold)
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > 100) + 1) if len(loud) else []
    return [int(group[np.argmax(np.abs(wave[group, 0]))]) for group in groups]


def rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(wave.astype(float) ** 2)))
