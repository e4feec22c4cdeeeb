"""Makes small films, and reads what they show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.operation import OPERATIONS
from tests.ffmpeg_ops import media as look
from tests.ffmpeg_ops.media import Media, VideoWork

SIZE = "96x64"
RED, GREEN, BLUE = "#C02020", "#20C020", "#2020C0"
BASE = {"size": SIZE, "frame_rate": 10}


def compose(work: VideoWork, scenes: list[dict[str, Any]], **params: Any) -> dict[str, Any]:
    """Make a film. A Path in the place of a URL is the file itself."""
    operation, files = OPERATIONS["compose"], {}

    def with_urls(value: Any) -> Any:
        if isinstance(value, Path):
            files[f"https://example.com/{value.name}"] = value
            return f"https://example.com/{value.name}"
        if isinstance(value, dict):
            return {key: with_urls(each) for key, each in value.items()}
        return [with_urls(each) for each in value] if isinstance(value, list) else value

    loaded = operation.params().load(with_urls({**BASE, "scenes": scenes, **params}))
    assets = {asset.path: files[asset.url] for asset in operation.named_assets(loaded)}
    return operation.run(replace(work, outputs=operation.outputs(loaded)), loaded, assets)


def colors(work: VideoWork) -> NDArray[np.float64]:
    """The mean colour of every frame of the film."""
    return look.frames(work.video, gray=False).astype(float).mean(axis=(1, 2))


def shows(color: NDArray[np.float64], wanted: str) -> bool:
    return bool(np.abs(color - np.array(list(bytes.fromhex(wanted[1:])))).max() < 12)


def counting(media: Media, frames: int, rate: int = 10) -> Path:
    """A clip whose frame n has the brightness 40 + 10·n."""
    picture = f"-f lavfi -i color=black:size=96x64:rate={rate}:duration={frames / rate},geq=lum=40+10*N:cb=128:cr=128"
    return media.made(f"counting-{frames}-{rate}.mp4", f"{picture} -c:v libx264 -qp 4 -pix_fmt yuv420p")


def numbers(work: VideoWork) -> list[int]:
    """Which frame of `counting` each frame of the film shows."""
    luma = look.frames(work.video).astype(float).mean(axis=(1, 2))
    return [round((16 + value * 219 / 255 - 40) / 10) for value in luma]
