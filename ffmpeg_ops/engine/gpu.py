"""What NVIDIA's driver shows of this machine's GPUs, and why one refuses to encode, in plain words.

A container may hold one of a host's GPUs. Drivers from 570 to about 609 then refuse to encode on most of them
(NVIDIA/nvidia-container-toolkit#1249), with the same error as a chip that has no NVENC.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

# Data centre chips for computing and the smallest laptop chips.
_WITHOUT_NVENC = re.compile(r"\b([AH][38]00|A30|A100|H100|H20|H200|B[123]00|G[HB][23]00|P[14]0-\d|MX\d{3}|GT 1030)\b")
_REFUSING_RELEASES = range(570, 610)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_root = Path("/")


def present() -> bool:
    """Whether NVIDIA's driver can be reached."""
    return (_root / "dev/nvidiactl").exists()


def expected() -> bool:
    """Whether this machine should have a GPU: there is a driver, or the container was started to have one."""
    return present() or os.environ.get("NVIDIA_VISIBLE_DEVICES", "") not in {"", "none", "void"}


def release() -> int | None:
    """The driver's major release, None if unknown."""
    found = re.search(r"Kernel Module.*?\s(\d{3})\.\d", _read(_root / "proc/driver/nvidia/version"))
    return int(found[1]) if found else None


def models() -> list[str]:
    """The names of the host's GPUs, as far as the driver shows them here."""
    cards = sorted((_root / "proc/driver/nvidia/gpus").glob("*/information"))
    return [found[1].strip() for card in cards if (found := re.search(r"Model:(.*)", _read(card)))]


def refusal() -> str:
    """Why a GPU that CUDA can use does not open an encoder."""
    names, number = models(), release()
    if names and all(_WITHOUT_NVENC.search(name) for name in names):
        return f"the {names[0]} has no NVENC"
    opened, attached = len(list((_root / "dev").glob("nvidia[0-9]*"))), len(names)
    if number not in _REFUSING_RELEASES:
        return "this GPU has no NVENC, or its host does not let the container use it"
    if 0 < opened < attached:
        gpus = f"{_word(opened)} GPU{'s' if opened > 1 else ''} of {_word(attached)}"
        return f"the host's driver {number} does not let a container with {gpus} encode"
    return f"this GPU has no NVENC, or the host's driver {number} does not let a container with some of its GPUs encode"


def _word(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def _read(path: Path) -> str:
    """What can be read of a file of the driver, which is no reason for a job to fail."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
