"""The work of the operation `collage`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ffmpeg_ops.operation import Work

SIDE = 32


def run(work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
    pictures = [path for name, path in assets.items() if name.endswith("url_image")]
    sheet = Image.new("RGB", (SIDE * len(pictures), SIDE))
    for number, path in enumerate(pictures):
        with Image.open(path) as picture:
            sheet.paste(picture.convert("RGB").resize((SIDE, SIDE)), (SIDE * number, 0))
    sheet.save(work.output("sheet"))
    sheet.resize((SIDE, SIDE)).save(work.output("poster"))
    sizes = {name: path.stat().st_size for name, path in assets.items()}
    work.output("report").write_text(json.dumps({"sizes": sizes}))
    figures = {
        "width": sheet.width,
        "height": sheet.height,
        "result": {"sizes": sizes, "files": len(set(assets.values()))},
    }
    return {**figures, **_faulty(work, params.get("fault"))}


def _faulty(work: Work, fault: str | None) -> dict[str, Any]:
    """Get something wrong; returns what is reported because of it."""
    poster = work.output("poster")
    match fault:
        case "missing":
            poster.unlink()
        case "empty":
            poster.write_bytes(b"")
        case "link":
            poster.unlink()
            poster.symlink_to("/etc/hostname")
        case "wrong_type":
            Image.new("RGB", (8, 8)).save(poster, "PNG")
        case "undeclared_output":
            work.output("thumbnail").write_bytes(b"x")
        case "undeclared_figure":
            return {"bananas": 3}
        case "large_result":
            return {"result": {"text": "x" * 64_000}}
        case "deep_result":
            nested: dict[str, Any] = {}
            for _ in range(20):
                nested = {"a": nested}
            return {"result": nested}
        case "no_object":
            return {"result": [1]}
    return {}
