"""Samples of every kind with flipped bits and lost ends. FUZZ_CASES is their number, FUZZ_SEED selects them."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from handler.settings import Settings
from tests.ffmpeg_ops.media import ffmpeg
from tests.handler.hostile import endure
from tests.servers import FileServer, Reply

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # parsers warn of odd files

CASES, SEED = int(os.environ.get("FUZZ_CASES", "60")), int(os.environ.get("FUZZ_SEED", "1"))

_PICTURE = "-f lavfi -i testsrc2=size=96x64:rate=10:duration=0.6"
_BOTH = f"{_PICTURE} -f lavfi -i sine=duration=0.6"
_X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
VIDEOS = {
    "mp4": f"{_BOTH} {_X264} -c:a aac",
    "fragmented.mp4": f"{_BOTH} {_X264} -c:a aac -movflags frag_keyframe+empty_moov",
    "mov": f"{_BOTH} -c:v mjpeg -c:a pcm_s16le",
    "mkv": f"{_BOTH} {_X264} -c:a libopus",
    "webm": f"{_BOTH} -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus",
    "ts": f"{_BOTH} {_X264} -c:a aac",
    "mpg": "-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.6 -c:v mpeg2video",
    "avi": f"{_BOTH} -c:v mpeg4 -c:a libmp3lame",
    "flv": f"{_BOTH} {_X264} -c:a aac",
    "hevc.mp4": f"{_PICTURE} -c:v libx265 -preset ultrafast -x265-params log-level=none",
}
SOUNDS = dict.fromkeys(("mp3", "wav", "flac", "ogg", "m4a", "opus", "aiff", "ac3"), "-f lavfi -i sine=duration=0.6")
IMAGES = dict.fromkeys(("jpg", "png", "webp", "bmp", "tiff", "gif"), f"{_PICTURE} -frames:v 1")
TEXTS = {
    "srt": "1\n00:00:00,100 --> 00:00:00,500\n<i>Olá</i> mundo\n\n2\n00:00:00,500 --> 00:00:01,000\nFim\n",
    "vtt": "WEBVTT\n\n00:00.100 --> 00:00.500 line:0\n<c.red>Olá</c> <00:00.300>mundo\n",
    "ass": "[Script Info]\nPlayResX: 96\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: D,Arial,20\n\n[Events]\n"
    "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    "Dialogue: 0,0:00:00.10,0:00:00.50,D,,0,0,0,,{\\b1\\k20}Olá {\\k20}mundo\n",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    found = {kind: text.encode() for kind, text in TEXTS.items()}
    for kind, arguments in {**VIDEOS, **SOUNDS, **IMAGES}.items():
        path = folder / f"whole.{kind}"
        ffmpeg(*arguments.split(), path)
        found[kind] = path.read_bytes()
    return found


def fuzzed(content: bytes, chance: random.Random) -> bytes:
    """A file cut off, or with random bits flipped, sometimes in its header only."""
    how = chance.random()
    if how < 0.15:
        return content[: chance.randrange(1, len(content))]
    end = min(len(content), 600) if how < 0.4 else len(content)
    bits = bytearray(content)
    for _ in range(max(1, round(end * 8 * 10 ** chance.uniform(-5, -2)))):
        at = chance.randrange(end * 8)
        bits[at // 8] ^= 1 << at % 8
    return bytes(bits)


def job(kind: str, url: str, files: FileServer, chance: random.Random) -> dict[str, Any]:
    if kind in IMAGES:
        return {"operation": "img2vid", "url_image": url, "duration": 0.2, "size": "64x64"}
    if kind in TEXTS:
        return {"operation": "caption", "url_video": files.url("/video.mp4"), "url_srt": url}
    if kind in SOUNDS:
        more = chance.choice([{}, {"length": "audio"}, {"loudness": -16}, {"mode": "mix"}])
        return {"operation": "adicionaAudio", "url_video": files.url("/video.mp4"), "url_audio": url, **more}
    if chance.random() < 0.5:
        return {"operation": "caption", "url_video": url, "url_srt": files.url("/captions.srt")}
    more = chance.choice([{}, {"length": "shortest"}, {"length": "audio"}, {"mode": "mix"}])
    return {"operation": "adicionaAudio", "url_video": url, "url_audio": files.url("/sound.wav"), **more}


def test_damaged_samples_end_well_or_in_a_clear_error(
    whole: dict[str, bytes], files: FileServer, settings: Settings, tmp_path: Path
) -> None:
    codes: Counter[str] = Counter()
    slowest, most_kb = 0.0, 0
    kinds = sorted(whole)
    for number in range(CASES):
        chance = random.Random(f"{SEED}-{number}")
        kind = kinds[number % len(kinds)]
        content = fuzzed(whole[kind], chance)
        (tmp_path / f"last.{kind}").write_bytes(content)  # what to look at when this fails
        files.routes["/fuzzed"] = Reply(body=content)
        outcome = endure(job(kind, files.url("/fuzzed"), files, chance), settings)
        codes[outcome.code] += 1
        slowest, most_kb = max(slowest, outcome.seconds), max(most_kb, outcome.memory_kb)
        assert outcome.code != "job_timeout", (number, kind)
        if outcome.output:
            outcome.output.unlink()
    print(f"{CASES} cases: {dict(codes)}; slowest {slowest:.1f} s; most memory {most_kb // 1000} MB")
    assert codes["completed"] and codes["asset_invalid"]
