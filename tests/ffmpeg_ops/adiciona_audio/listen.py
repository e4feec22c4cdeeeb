"""Decoded samples of a file, and the levels of single tones in them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, ffmpeg, run

RATE = 48000
Wave = NDArray[np.float32]


def add(work: Work, video: Path, audio: Path, **params: Any) -> dict[str, Any]:
    return run("adicionaAudio", work, params, url_video=video, url_audio=audio)


def wave(path: Path) -> Wave:
    """The left channel as players play it: 48 kHz, without the encoder's delay."""
    options = ["-map", "0:a:0", "-af", "pan=mono|c0=c0", "-ar", str(RATE), "-f", "f32le", "-"]
    return np.frombuffer(ffmpeg("-i", path, *options), np.float32)


def length_s(path: Path) -> float:
    return len(wave(path)) / RATE


def level_db(sound: Wave, hz: float, start_s: float, end_s: float) -> float:
    """The amplitude of one tone in dB of full scale."""
    part = sound[int(start_s * RATE) : int(end_s * RATE)].astype(float)
    turning = np.exp(-2j * np.pi * hz * np.arange(len(part)) / RATE) * np.hanning(len(part)) * 2
    return float(20 * np.log10(max(abs(2 * np.mean(part * turning)), 1e-6)))


def loudness(path: Path) -> tuple[float, float]:
    """Integrated loudness in LUFS and true peak in dBTP, by FFmpeg's ebur128."""
    command = ["ffmpeg", "-nostdin", "-hide_banner", "-i", str(path), "-map", "0:a", "-af", "ebur128=peak=true"]
    said = subprocess.run([*command, "-f", "null", "-"], check=True, capture_output=True, text=True).stderr
    summary = said[said.rindex("Summary") :]
    found = [re.search(rf"{name}:\s+(-?[\d.]+|-inf)", summary) for name in ("I", "Peak")]
    assert all(found)
    integrated, peak = (float(match[1]) for match in found if match)
    return integrated, peak


def tone(media: Media, name: str, expression: str, seconds: float, *, options: str = "") -> Path:
    """A sound by FFmpeg's aevalsrc; several channels are separated by `|`."""
    return media.made(name, f"-f lavfi -i aevalsrc={expression}:s={RATE}:d={seconds} {options}")


def with_sound(media: Media, name: str, expression: str, seconds: float) -> Path:
    """A video whose own sound is `expression`."""
    picture = media.video(seconds=seconds, audio=False)
    sound = tone(media, f"{name}.wav", expression, seconds)
    return media.made(f"{name}.mp4", f"-i {picture.name} -i {sound.name} -c:v copy -c:a aac -b:a 192k")
