"""Decodes subtitles of unknown encoding: byte order marks and UTF-8 first, then what looks like a language."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from itertools import pairwise

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's mark
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The letters beyond ASCII of each language, by the encoding that old editors wrote it in. The first of equals wins.
_ALPHABETS = (
    ("windows-1252", "áâãàçéêíóôõúü"),
    ("windows-1252", "áéíñóúü"),
    ("windows-1252", "àâæçéèêëîïôœùûüÿ"),
    ("windows-1252", "äöüßé"),
    ("windows-1252", "àèéìíîòóùú"),
    ("windows-1252", "åäöæøéàü"),
    ("windows-1250", "ąćęłńóśźż"),
    ("windows-1250", "áäčďéěíĺľňóôŕřšťúůýž"),
    ("windows-1250", "áéíóöőúüű"),
    ("windows-1250", "čćđšž"),
    ("windows-1250", "ăâîşţ"),
    ("windows-1254", "çğıöşüâîİ"),
    ("windows-1257", "āąčēęėģīįķļņšųūž"),
    ("windows-1255", "אבגדהוזחטיךכלםמןנסעףפץצקרשת"),
    ("windows-1251", "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґў"),
    ("koi8-u", "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґ"),
    ("cp866", "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"),
    ("windows-1253", "αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώϊϋΐΰ"),
    ("windows-1256", "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيپچژگ"),
    ("cp874", "".join(map(chr, (*range(0x0E01, 0x0E3B), *range(0x0E3F, 0x0E5C))))),
)
_SIGNS = frozenset("“”‘’„‚–—…«»¿¡€£°ºª§©®™·´•\xa0")
_FOREIGN = r"[^\W\d_A-Za-z\u00c0-\u024f]"  # a letter that is not Latin
_ODD = re.compile(rf"\w[¿¡]|[A-Za-z]{_FOREIGN}|{_FOREIGN}[A-Za-z]")  # within a word
# Characters of two bytes: the lead bytes of those that are common, and the share of them that tells the encoding.
_KANA = re.compile("[\u3040-\u30ff]")
_JAPANESE = ("cp932", "euc_jp")
_PAIRS = (("cp949", range(0xB0, 0xC9), 0.97), ("gb18030", range(0xB0, 0xD8), 0.9), ("big5", range(0xA4, 0xC7), 0.9))


def decode(raw: bytes, warn: Callable[[str], object]) -> str:
    """The text of a file. Passes a guess about its encoding to `warn`. Raises ValueError when it is not text."""
    for bom, encoding in _BOMS:
        if raw.startswith(bom):
            return raw.decode(encoding)
    if zeros := _half_of_zeros(raw):
        warn(f"the subtitles have no byte order mark; their encoding was guessed as {zeros}")
        return raw.decode(zeros, "replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    text = raw.decode("utf-8", "replace")
    bad, good = text.count("\ufffd"), len(re.findall(r"[^\x00-\x7f\ufffd]", text))
    if good and bad <= max(1, good // 3):
        warn(f"the subtitles are UTF-8 with {bad} wrong byte{'s' if bad > 1 else ''}, shown as \ufffd")
        return text
    encoding = _guess(raw)
    warn(f"the subtitles are not UTF-8; their encoding was guessed as {encoding}")
    return raw.decode(encoding, "replace")


def load_codecs() -> None:
    """Import all codecs that `decode` and its callers may need, before a confined process can import no more."""
    names = {*(encoding for _, encoding in _BOMS), *(row[0] for row in (*_ALPHABETS, *_PAIRS)), *_JAPANESE}
    for name in (*names, "utf-16-le", "utf-16-be", "latin-1"):
        codecs.lookup(name)


def _half_of_zeros(raw: bytes) -> str | None:
    """UTF-16, in which every other byte of the times is zero."""
    low, high = (half.count(0) * 4 > len(raw) for half in (raw[1::2], raw[::2]))
    return None if low == high else "utf-16-le" if low else "utf-16-be"


def _guess(raw: bytes) -> str:
    foreign = b"\n".join(line for line in re.split(rb"[\r\n]+", raw) if not line.isascii())[:100_000]
    return _east_asian(foreign) or max(_ALPHABETS, key=lambda row: _likeness(foreign, *row))[0]


def _east_asian(raw: bytes) -> str | None:
    for encoding in _JAPANESE:
        text = _decoded(raw, encoding)
        if text and len(_KANA.findall(text)) > 0.2 * _beyond_ascii(text):
            return encoding
    for encoding, leads, share in _PAIRS:
        text = _decoded(raw, encoding) or ""
        encoded = [char.encode(encoding) for char in text if char.isalpha() and not char.isascii()]
        if encoded and sum(len(char) == 2 and char[0] in leads for char in encoded) >= share * len(encoded):
            return encoding
    return None


def _decoded(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return raw[:-1].decode(encoding, "replace") if len(raw) == 100_000 else None


def _beyond_ascii(text: str) -> int:
    return sum(not char.isascii() for char in text)


def _likeness(raw: bytes, encoding: str, alphabet: str) -> float:
    """How much the bytes look like a language: the share of usual characters, less what is odd within words."""
    text = raw.decode(encoding, "replace")
    letters = frozenset(alphabet + alphabet.upper()) | _SIGNS
    usual = sum(char in letters for char in text if not char.isascii())
    odd = len(_ODD.findall(text)) + sum(a.islower() and b.isupper() for a, b in pairwise(text))
    return (usual - odd) / max(1, _beyond_ascii(text))
