"""A stand-in for NVIDIA's driver: FFmpeg's own h264_nvenc, hevc_nvenc and av1_nvenc run on it without a GPU.

`libcuda.so.1` and `libnvidia-encode.so.1` are built from the C files here and encode with x264, x265 and libaom. A
`Driver` is a folder with `bin/ffmpeg`, which runs an FFmpeg with these libraries, and `lib/`, which the sandbox admits.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent
LIBRARIES = {
    "libcuda.so.1": ("cuda.c", "settings.c", "chips.c"),
    "libnvidia-encode.so.1": (
        *("nvenc.c", "configure.c", "session.c", "settings.c", "chips.c"),
        *("codec_x264.c", "codec_x265.c", "codec_aom.c", "-lx264", "-lx265", "-laom"),
    ),
}
HEADERS = ("ffnvcodec/nvEncodeAPI.h", "x264.h", "x265.h", "aom/aom_encoder.h")
SETTINGS = frozenset(re.findall(r"(?:TEXT|NUMBER)\((\w+)\)[,\s]", (SOURCES / "settings.c").read_text())) - {"name"}
_LOG_BYTES = 1 << 20  # as in settings.c


def missing() -> str | None:
    """What this machine lacks for a build, None if nothing."""
    if shutil.which("gcc") is None:
        return "gcc"
    return next((name for name in HEADERS if not Path("/usr/include", name).exists()), None)


def build(folder: Path, options: Sequence[str] = ()) -> Path:
    """Build the two libraries in `folder`, and return it. `options` are for gcc."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = ["gcc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", *options]
    for name, sources in LIBRARIES.items():
        command = [*compiler, "-o", str(folder / name), *sources]
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def installed(library_folder: Path) -> dict[str, str]:
    """Shell commands, by program, that run what is on PATH with the libraries in a folder."""
    return {"ffmpeg": f"env LD_LIBRARY_PATH={library_folder} {shutil.which('ffmpeg')}"}


class Driver:
    """A machine with GPUs for one test. Programs find it with `bin` first on PATH.

    `programs` returns shell commands for a folder of libraries, as `installed` does; `libraries` were built for them.
    """

    def __init__(self, folder: Path, libraries: Path, programs: Callable[[Path], dict[str, str]] = installed) -> None:
        self.bin, self._lib = folder / "bin", folder / "lib"
        self.bin.mkdir(parents=True)
        shutil.copytree(libraries, self._lib)
        for name, command in programs(self._lib).items():
            (self.bin / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (self.bin / name).chmod(0o755)
        #: What the libraries write to; the sandbox must admit it.
        self.log_file = self._lib / "nvenc.log"
        self.log_file.write_bytes(bytes(_LOG_BYTES))
        self._settings: dict[str, int | float | str] = {
            "tag": f"nvenc-{os.getpid()}-{self.log_file.stat().st_ino}",
            "log": self.log_file.name,
        }
        self.set()

    def set(self, **settings: int | float | str) -> None:
        """Change settings; see settings.h for all of them. Processes that run already keep theirs."""
        if unknown := settings.keys() - SETTINGS:
            raise TypeError(f"no such settings: {', '.join(unknown)}; known are {', '.join(sorted(SETTINGS))}")
        self._settings |= settings
        written = self._lib / "nvenc.conf.new"
        written.write_text("".join(f"{name} = {value}\n" for name, value in self._settings.items() if value != ""))
        written.replace(self._lib / "nvenc.conf")

    @property
    def log(self) -> list[str]:
        """What FFmpeg asked of the driver so far, a line a call."""
        content = self.log_file.read_bytes()
        return content[8 : 8 + int.from_bytes(content[:4], "little")].decode().splitlines()

    @property
    def encodes(self) -> list[dict[str, str]]:
        """The options of every encode that was begun, by name."""
        rows = [line.split()[1:] for line in self.log if line.startswith("initialize ")]
        return [dict(word.split("=", 1) for word in row) for row in rows]

    @contextmanager
    def occupied(self, sessions: int) -> Iterator[None]:
        """Hold the first sessions, as other processes on the GPU would."""
        with ExitStack() as stack:
            for number in range(sessions):
                held = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                held.bind(f"\0{self._settings['tag']}/{number}")
            yield
