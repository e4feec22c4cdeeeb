"""Debian 13's FFmpeg, which the worker's image has, beside another one: `python -m tests.emulators.nvenc.debian13`.

apt downloads and verifies the packages, 100 MB, and they are unpacked into a folder that git ignores; nothing is installed.
The programs there run with their own C library and loader.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[3] / ".cache" / "debian-13"
LIBRARIES = FOLDER / "usr/lib/x86_64-linux-gnu"
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"
_PACKAGES = ("ffmpeg", "libffmpeg-nvenc-dev", "libx264-dev", "libx265-dev", "libaom-dev")
# What no program here loads: drivers of screens, fonts, and what belongs to a whole system.
_LEFT_OUT = re.compile(r"(libllvm|mesa-|libz3|fonts-|debconf|lsb-base|.*-(data|common)_)")


def unpacked() -> bool:
    """Whether the folder is there and complete."""
    return (FOLDER / "complete").exists()


def programs(library_folder: Path) -> dict[str, str]:
    """Shell commands, by program, that run it with the libraries in a folder before its own."""
    below = [LIBRARIES, *(LIBRARIES / name for name in ("blas", "lapack", "pulseaudio"))]
    path = ":".join(str(folder) for folder in (library_folder, *below))
    loader = f"{LIBRARIES}/ld-linux-x86-64.so.2 --library-path {path}"
    return {program: f"{loader} {FOLDER}/usr/bin/{program}" for program in ("ffmpeg", "ffprobe")}


def build_options() -> list[str]:
    """Options for gcc to build libraries for these programs."""
    return [f"-I{FOLDER}/usr/include", f"-L{LIBRARIES}", "-Wl,--allow-shlib-undefined"]


def unpack() -> None:
    """Download and unpack. Raises CalledProcessError without Debian's mirror, SystemExit where it could not run."""
    if platform.machine() != "x86_64":
        raise SystemExit("these programs are for x86_64")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as name:
        work = Path(name)
        apt = _apt(work)
        _run([*apt, "update"], work)
        listed = _run([*apt, "install", "--print-uris", "--yes", *_PACKAGES], work)
        files = [file for file in re.findall(r" (\S+\.deb) ", listed) if not _LEFT_OUT.match(file)]
        _run([*apt, "download", *(file.partition("_")[0] for file in files)], work)
        tree = work / "tree"
        for package in sorted(work.glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(tree)], work)
        shutil.rmtree(tree / "usr/share", ignore_errors=True)
        for archive in tree.rglob("*.a"):
            archive.unlink()
        (tree / "complete").touch()
        tree.rename(FOLDER)


def _apt(work: Path) -> list[str]:
    """apt-get with lists, a status and a cache of its own."""
    for folder in ("state/lists/partial", "cache/archives/partial", "parts"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(_SOURCE)
    options = {
        "APT::Architecture": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Dir::Cache": work / "cache",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": work / "parts",
        "Dir::Etc::preferencesparts": work / "parts",
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
    }
    return ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]


def _run(words: list[str], work: Path) -> str:
    return subprocess.run(words, cwd=work, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout


if __name__ == "__main__":
    if not unpacked():
        unpack()
    sys.exit(subprocess.run([*programs(LIBRARIES)["ffmpeg"].split(), "-version"]).returncode)
