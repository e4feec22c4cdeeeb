"""Names of GPUs, which every provider spells differently."""

from __future__ import annotations

import re

# The parts of a GPU's id that its common name omits.
_ASIDE = re.compile(r"NVIDIA |GeForce | Generation| Blackwell.*|[ -](80GB|SXM|PCIe|NVL).*")


def short_name(gpu: str) -> str:
    """`NVIDIA GeForce RTX 4090` → `RTX 4090`."""
    return _ASIDE.sub("", gpu)


def name_key(gpu: str) -> str:
    """A key that is equal for all spellings of one name."""
    return " ".join(word for word in gpu.casefold().split() if word not in {"nvidia", "geforce", "rtx", "generation"})


def same_gpu(one: str, other: str) -> bool:
    """Whether two names, with NVIDIA's prefixes or without, are of the same GPU."""
    return name_key(short_name(one)) == name_key(short_name(other))
