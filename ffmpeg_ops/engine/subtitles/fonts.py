"""Installed fonts: which of them has a glyph for a character, and how wide text becomes.

libass would choose a font itself when a glyph is missing, and draw a box if it finds none. Instead, the script names a
font for every run of characters, and omits characters that no font has, with a warning.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import ImageFont

from ffmpeg_ops.engine import process
from ffmpeg_ops.engine.subtitles.lines import clusters, columns
from wire.errors import EncodeFailed, JobTimeout, WorkerError

DEFAULT = "Noto Sans"
_FIELDS = ("file", "index", "weight", "slant", "color", "outline", "family", "charset")
FORMAT = "\t".join(f"%{{{field}}}" for field in _FIELDS) + "\n"
_SCRIPTS = ("Arabic", "Hebrew", "Thai", "Devanagari", "Bengali", "Tamil", "Telugu", "Georgian", "Armenian", "Ethiopic")
_SYMBOLS = ("Symbola", "Noto Sans Symbols", "Noto Sans Symbols2", "Noto Sans Math", "DejaVu Sans")
_SKIN = re.compile("[\U0001f3fb-\U0001f3ff\ufe0e\ufe0f]")
_BOLD, _REGULAR = 200, 80
REFERENCE = 100  # pixels, the size at which text is measured
GUESSED_WIDTH = 0.42  # of a column, as a share of the text size


class Charset:
    """A set of characters, from fontconfig's form: `20-7e a0 ...` in hexadecimal."""

    def __init__(self, text: str) -> None:
        ranges = [(part.split("-") * 2)[:2] for part in text.split()]
        self._starts = [int(first, 16) for first, _ in ranges]
        self._ends = [int(last, 16) for _, last in ranges]

    def __contains__(self, char: str) -> bool:
        at = bisect_right(self._starts, ord(char)) - 1
        return at >= 0 and ord(char) <= self._ends[at]


@dataclass(frozen=True)
class Measures:
    """How large the letters of a font are at REFERENCE."""

    #: The width of each character that has been measured.
    widths: Mapping[str, float]
    #: Ascent plus descent.
    height: float


@dataclass(frozen=True)
class Face:
    """One style of a font family that libass can draw: outlines, no bitmaps or colour layers."""

    #: All names of its family.
    families: tuple[str, ...]
    #: Path of the font file.
    file: str
    #: Number of the face in that file.
    index: int
    #: fontconfig's weight: 80 is regular, 200 bold.
    weight: int
    #: The characters that it has glyphs for.
    charset: Charset
    #: Its measures if it is not installed; those that are, are measured when they are used.
    measures: Measures | None = None

    def has(self, cluster: str) -> bool:
        """Whether it has a glyph for every visible character."""
        return all(char in self.charset or _is_invisible(char) for char in cluster)

    def width(self, text: str) -> float:
        """The width of `text` at REFERENCE."""
        if self.measures is None:
            return float(_loaded(self.file, self.index).getlength(text))
        return sum(self.measures.widths.get(char, columns(char) * GUESSED_WIDTH * REFERENCE) for char in text)

    @property
    def height(self) -> float:
        """Ascent plus descent at REFERENCE."""
        return sum(_loaded(self.file, self.index).getmetrics()) if self.measures is None else self.measures.height


@cache
def installed() -> tuple[Face, ...]:
    """The faces that fontconfig lists; none without fontconfig."""
    try:
        listed = process.output_outside_job(["fc-list", "-f", FORMAT])
    except (EncodeFailed, JobTimeout, WorkerError):
        return ()
    return tuple(face for fields in described(listed) if is_upright(fields) and (face := face_of(fields)))


def described(listed: str) -> list[dict[str, str]]:
    """The faces that fontconfig's tools print in FORMAT."""
    rows = (line.split("\t") for line in listed.split("\n"))
    return [dict(zip(_FIELDS, row, strict=True)) for row in rows if len(row) == len(_FIELDS)]


def is_upright(fields: Mapping[str, str]) -> bool:
    """Whether a face is neither italic nor oblique."""
    return fields["slant"] in {"", "0"}


class Fonts:
    """The fonts for one job: the requested family, and fallbacks for the glyphs it lacks.

    `family` is the main one, or that of `own`, a font that is not installed, which is drawn in the weight that it has.
    `missing` collects the characters that no font has, `used` the families that draw others. Without any `faces`,
    libass chooses the font, and widths are guesses.
    """

    def __init__(
        self, faces: Sequence[Face], family: str, *, bold: bool, sample: str = "", own: Face | None = None
    ) -> None:
        self.bold, self.own = bold, own
        self.missing: set[str] = set()
        self.used: set[str] = set()
        self._by_family = _by_family(faces, bold=bold)
        if own is not None:
            family = own.families[0]
            self._by_family[family.lower()] = own
        main = next((name for name in (family, DEFAULT, *_SYMBOLS[::-1]) if name.lower() in self._by_family), family)
        self.family = main
        self._order = _in_order(self._by_family, main, sample)
        self._measured: dict[str, float] = {}

    def runs(self, text: str) -> list[tuple[str, str]]:
        """`text` in pieces, each with the family that draws it."""
        if not self._order:
            return [(self.family, text)]
        found: list[tuple[str, str]] = []
        for cluster in clusters(text):
            family, shown = self._drawn(cluster)
            if not all(map(_is_invisible, shown)):
                self.used.add(family)
            if found and found[-1][0] == family:
                found[-1] = (family, found[-1][1] + shown)
            elif shown:
                found.append((family, shown))
        return found

    def is_bold(self, family: str) -> bool:
        """Whether text in that family is drawn bold. Only the main family may be without a bold face: it is smeared."""
        face = self._by_family.get(family.lower())
        if family == self.family:
            return self.bold and face is not self.own
        return self.bold and (face is None or face.weight > 150)

    def width(self, text: str) -> float:
        """The width of `text` at size 1."""
        if text not in self._measured:
            self._measured[text] = sum(self._width(family, run) for family, run in self.runs(text))
        return self._measured[text]

    def _drawn(self, cluster: str) -> tuple[str, str]:
        cluster = _SKIN.sub("", cluster)  # outlines have no colour: a skin tone would be drawn as a patch
        for face_family, face in self._order:
            if face.has(cluster):
                return face_family, cluster
        if len(cluster) > 1:  # a joined emoji in parts, a letter without its mark
            parts = [self._drawn(char) for char in cluster if not _is_invisible(char)]
            family = parts[0][0] if parts else self.family
            return family, "".join(part for part_family, part in parts if part_family == family)
        self.missing.add(cluster)
        return self.family, ""

    def _width(self, family: str, run: str) -> float:
        face = self._by_family.get(family.lower())
        if face is None:
            return columns(run) * GUESSED_WIDTH
        return face.width(run) / self._height(self.family)

    def scale(self, family: str) -> float:
        """The factor on the size of `family` that makes its letters as large as those of the main one.

        In ASS the size is ascent plus descent, which differ widely between scripts.
        """
        return self._height(family) / self._height(self.family)

    def _height(self, family: str) -> float:
        face = self._by_family.get(family.lower())
        return face.height if face else REFERENCE / 0.73


def face_of(fields: Mapping[str, str]) -> Face | None:
    """The face that fontconfig describes; None if libass cannot draw it."""
    if fields["color"] == "True" or fields["outline"] != "True":
        return None
    weight = re.match(r"\d+", fields["weight"])
    names = (name.replace("\\", "") for name in fields["family"].split(","))
    families = tuple(name for name in names if re.fullmatch(r"\w[\w .&+()\-]*", name))  # safe inside a tag
    return Face(
        families,
        fields["file"],
        int(fields["index"] or 0) & 0xFFFF,
        int(weight[0]) if weight else _REGULAR,
        Charset(fields["charset"]),
    )


def _by_family(faces: Iterable[Face], *, bold: bool) -> dict[str, Face]:
    wanted = _BOLD if bold else _REGULAR
    found: dict[str, Face] = {}
    for face in sorted(faces, key=lambda face: (abs(face.weight - wanted), face.file)):
        for family in face.families:
            found.setdefault(family.lower(), face)
    return found


def _in_order(by_family: dict[str, Face], main: str, sample: str) -> list[tuple[str, Face]]:
    """Families in the order they are tried: the main one, the usual ones for scripts and symbols, then all others."""
    usual = [main, DEFAULT, *(f"Noto Sans {script}" for script in _SCRIPTS), _east_asian(sample), *_SYMBOLS]
    others = sorted(by_family, key=lambda name: (not name.startswith("noto sans"), "mono" in name, name))
    names = list(dict.fromkeys([name for name in usual if name.lower() in by_family]))
    seen = {name.lower() for name in names}
    names += [_written(by_family[name], name) for name in others if name not in seen]
    return [(name, by_family[name.lower()]) for name in names]


def _written(face: Face, lower: str) -> str:
    return next(name for name in face.families if name.lower() == lower)


def _east_asian(sample: str) -> str:
    """The family whose ideographs suit the language of `sample`."""
    if re.search(r"[\u3040-\u30ff]", sample):
        return "Noto Sans CJK JP"
    return "Noto Sans CJK KR" if re.search(r"[\uac00-\ud7af]", sample) else "Noto Sans CJK SC"


def _is_invisible(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f"


@cache
def _loaded(file: str, index: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, REFERENCE, index)
