"""Every request of docs/compose.md makes the film that the page describes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ffmpeg_ops.operation import OPERATIONS
from tests.ffmpeg_ops import media as look
from tests.ffmpeg_ops.media import Media, VideoWork

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples"
REQUESTS = [
    json.loads(block)
    for block in re.findall(r"```json request\n(.*?)```", (ROOT / "docs/compose.md").read_text(), re.S)
]
# A ninth of the pixels, so that the test ends while somebody waits for it.
SMALL = {"9:16": "360x640", "16:9": "640x360", "1:1": "360x360", "4:5": "360x450"}
# How long each film lasts: its files are as long as `made` makes them.
CLIP_S = 5.28
LENGTHS_S = [3.5, 5, 3.8, 7.5, 4, 7.5, 5, 4, CLIP_S + 3 + 2, 4, CLIP_S]
SOUNDS = {"voice-1.mp3": 1.5, "voice-2.mp3": 2.0, "story.mp3": 4.0, "episode.mp3": 4.0, "music.mp3": 3.0}


@pytest.fixture(scope="module")
def files(media: Media) -> dict[str, Path]:
    """The files that the page names."""
    made = {"clip.mp4": SAMPLES / "video.mp4", "episode.srt": SAMPLES / "captions.en.srt"}
    made["phone.mp4"] = media.made(
        "phone.mp4", "-f lavfi -i testsrc2=size=180x320:rate=24:duration=3 -f lavfi -i sine=330:duration=3 -c:a aac"
    )
    for pitch, (name, seconds) in enumerate(SOUNDS.items(), 3):
        made[name] = media.made(name, f"-f lavfi -i sine={100 * pitch}:duration={seconds} -c:a libmp3lame")
    for name in ("beach", "market", "harbour", "product", "cover", "before", "after"):
        made[f"{name}.jpg"] = SAMPLES / "photo.jpg"
    made["logo.png"] = media.folder / "logo.png"
    Image.new("RGBA", (120, 60), (255, 255, 255, 200)).save(made["logo.png"])
    return made


def test_the_command_of_the_page_names_samples_that_exist() -> None:
    [body] = re.findall(r"<<END\n(.*?)\nEND\n", (ROOT / "docs/compose.md").read_text(), re.S)
    params = OPERATIONS["compose"].params().load(json.loads(body.replace("$URL", "http://127.0.0.1:8000")))
    for asset in OPERATIONS["compose"].named_assets(params):
        assert (SAMPLES / asset.url.removeprefix("http://127.0.0.1:8000/samples/")).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("request_", "length_s"), list(zip(REQUESTS, LENGTHS_S, strict=True)))
def test_a_request_of_the_page_makes_its_film(
    work: VideoWork, files: dict[str, Path], request_: dict[str, Any], length_s: float
) -> None:
    operation = OPERATIONS["compose"]
    params = operation.params().load({**request_, "size": SMALL[request_.get("size", "9:16")]})
    assets = {asset.path: files[asset.url.rpartition("/")[2]] for asset in operation.named_assets(params)}
    outputs = operation.outputs(params)
    result = operation.run(replace(work, outputs=outputs), params, assets)
    assert all((work.directory / f"output-{name}.{kind.extension}").exists() for name, kind in outputs.items())
    assert result["duration_s"] == pytest.approx(length_s, abs=0.06)
    assert "warnings" not in result
    heard = any(asset.kind in {"audio", "video"} for asset in operation.named_assets(params))
    assert heard == ("audio" in {stream["codec_type"] for stream in look.streams(work.video)})
    if heard:
        assert look.audio_length_s(work.video) == pytest.approx(result["duration_s"], abs=0.03)
    shown = look.frames(work.video)
    assert len(shown) == result["frames"]
    assert np.ptp(shown, axis=0).max() > 50, "something moves"
