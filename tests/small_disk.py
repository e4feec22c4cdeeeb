"""A small disk of its own, for tests that fill it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """Mount a disk of `size` (such as 24m) at `place`; skip the test where that is not permitted."""
    place.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def ext4_disk(place: Path, image: Path) -> Iterator[None]:
    """Mount the ext4 file system in `image` at `place`, made if there is none; skip where that is not permitted."""
    place.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(64 * 1024 * 1024)
        if not shutil.which("mkfs.ext4"):
            pytest.skip("needs mkfs.ext4")
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a loop device")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk to its last block, again too; return the file."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"\0" * 4096)
    return path
