"""A copy of the product in which `collage` is the only operation."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import ROOT


def plant(root: Path) -> Path:
    """Fill `root`, for PYTHONPATH: `ffmpeg_ops` without its operations and with `collage`; all else as it is."""
    for name in ("common", "docs", "gateway", "handler", "samples", "scripts", "tests", "wire"):
        (root / name).symlink_to(ROOT / name)
    copy = root / "ffmpeg_ops"
    copy.mkdir()
    for path in (ROOT / "ffmpeg_ops").glob("*.py"):
        shutil.copy(path, copy)
    (copy / "engine").symlink_to(ROOT / "ffmpeg_ops" / "engine")
    (copy / "collage").mkdir()
    for name in ("__init__.py", "run.py"):
        shutil.copy(ROOT / "tests" / "collage" / name, copy / "collage")
    return root
