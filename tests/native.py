"""Shared libraries in C, compiled for a test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def compile_library(source: Path, library: Path) -> Path:
    """Compile `source` with every warning an error."""
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", library, source], check=True, timeout=60)
    return library
