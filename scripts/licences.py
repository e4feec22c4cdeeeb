"""Generates docs/licences.md: the Python packages in the images with the licences that their metadata states."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/licences.md"
# Copyleft packages, each with the reason why we may use it.
COPYLEFT = {
    "certifi": "MPL-2.0: covers its own files, which are distributed unchanged",
    "paramiko": "LGPL-2.1: a dependency of runpod, imported unchanged and replaceable in the image",
    "psycopg": "LGPL-3.0: imported unchanged and replaceable in the image",
    "psycopg-binary": "LGPL-3.0: as psycopg",
    "tqdm": "MPL-2.0: a dependency of runpod, distributed unchanged",
}
# Words in the names of all other licences.
FREE = frozenset(
    {"0BSD", "Apache", "BSD", "CC0", "CMU", "ISC", "MIT", "PSF", "Python Software Foundation", "Unlicense", "Zlib"}
)
_COPYLEFT = re.compile(r"GPL|MPL|EPL|EUPL|CDDL|CC-BY-SA|OSL|SSPL|BUSL|Mozilla|copyleft|General Public", re.IGNORECASE)
# Packages for other systems and interpreters, which are never installed in the images.
_ELSEWHERE = re.compile(r"sys_platform == '(win32|emscripten)'|platform_python_implementation != 'CPython'")


@dataclass(frozen=True)
class Package:
    """A Python package in the images."""

    #: Its name.
    name: str
    #: The images that contain it.
    images: tuple[str, ...]
    #: The licence that its metadata states.
    licence: str


def main() -> int:
    fresh = page()
    if "--check" in sys.argv:
        return 0 if PAGE.read_text() == fresh else 1
    PAGE.write_text(fresh)
    return 0


def page() -> str:
    rows = [f"| {p.name} | {', '.join(p.images)} | {p.licence} | {COPYLEFT.get(p.name, '')} |" for p in packages()]
    return (
        "# Licences of the images' contents\n\n"
        "Reelay itself is under the MIT licence ([LICENSE](../LICENSE)). Its images add the Python packages below, as "
        "`make docs` finds them installed, and Debian's packages, whose licences are in `/usr/share/doc/*/copyright` "
        "of each image. Two of those matter when you distribute the worker's image: FFmpeg is Debian's build under the "
        "GPL (with x264 and x265), and runs as a separate program. `opencv-python-headless` includes libraries "
        "of FFmpeg under the LGPL 2.1.\n\n"
        "| Package | Image | Licence | Why it may be used |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def packages() -> list[Package]:
    """The packages of the images that are installed here, by name."""
    images_of: dict[str, list[str]] = {}
    for folder, image in (("gateway", "gateway"), ("handler", "worker")):
        for name in _pinned(ROOT / folder / "requirements.txt"):
            images_of.setdefault(name, []).append(image)
    found = []
    for name, images in sorted(images_of.items()):
        try:
            found.append(Package(name, tuple(dict.fromkeys(images)), licence_of(metadata.metadata(name))))
        except metadata.PackageNotFoundError:
            continue  # for another version of Python
    return found


def licence_of(meta: metadata.PackageMetadata) -> str:
    """The licence from the newer field, the older one or the classifiers; `unknown` if none states it."""
    classifiers = [c.rpartition(" :: ")[2] for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    newer, older = (meta[field].strip() if field in meta else "" for field in ("License-Expression", "License"))
    # some packages put the whole licence text into the older field
    short = older if older and len(older) < 60 and "\n" not in older and older != "Dual License" else ""
    return newer or short or " OR ".join(classifiers) or "unknown"


def refusals(found: list[Package]) -> list[str]:
    """Packages that must not go into an image before their licence has been reviewed."""
    unknown = [p for p in found if not _COPYLEFT.search(p.licence) and not any(w in p.licence for w in FREE)]
    copyleft = [p for p in found if _COPYLEFT.search(p.licence) and p.name not in COPYLEFT]
    return [f"{p.name}: {p.licence}" for p in (*unknown, *copyleft)]


def _pinned(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        name = re.match(r"([A-Za-z0-9._-]+)(\[[a-z,]+\])?==", line)
        if name and not _ELSEWHERE.search(line):
            yield name[1].lower()


if __name__ == "__main__":
    sys.exit(main())
