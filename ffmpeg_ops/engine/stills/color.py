"""Colours that a file describes without an ICC profile: as PNG's gAMA, cHRM and cICP, and AVIF's nclx.

Each is turned into a profile, as if the file had brought it: Pillow's decoders ignore them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[np.float64]
Curve = Callable[[Values], Values]
# x and y of red, green, blue and white
Primaries = tuple[float, float, float, float, float, float, float, float]

_HEAD_BYTES = 1 << 20  # in which AVIF describes its pictures
_BEFORE_PIXELS = 200  # chunks of a PNG
_SRGB: Primaries = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)
# Of ITU-T H.273, which cICP and nclx refer to. What is not listed is taken for sRGB.
_PRIMARIES: dict[int, Primaries] = {
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329),  # BT.2020
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),  # DCI-P3
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329),  # Display P3
}
_SRGB_GAMMA = 0.45455
_NEAR = 0.003
_WHITE = 203.0  # cd/m², the diffuse white of HDR by BT.2408
_KNEE, _PEAK = 0.5, 5.0  # HDR becomes SDR as in videos: what is above the knee is compressed
_TO_D50 = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])  # Bradford
_D50 = np.array([0.9642, 1.0, 0.8249])
_STEPS = 4096


def described(image: Image.Image, file: BinaryIO) -> bytes | None:
    """The ICC profile that stands for what `file`, of which `image` was opened, says; None if it is sRGB or nothing."""
    if image.format == "PNG":
        codes = _chunk(file, b"cICP")
        if codes is not None and len(codes) == 4:
            return _of_codes(codes[0], codes[1])
        if "icc_profile" not in image.info and "srgb" not in image.info:
            return _of_gamma(image.info)
    if image.format == "AVIF" and "icc_profile" not in image.info:
        file.seek(0)
        _, found, rest = file.read(_HEAD_BYTES).partition(b"colrnclx")
        if found and len(rest) >= 4:
            return _of_codes(*struct.unpack(">HH", rest[:4]))
    return None


def _chunk(file: BinaryIO, name: bytes) -> bytes | None:
    """The content of a PNG's chunk that comes before the pixels."""
    file.seek(8)
    for _ in range(_BEFORE_PIXELS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            return None
        length = int.from_bytes(head[:4])
        if head[4:] == name:
            return file.read(min(length, 64))
        file.seek(length + 4, 1)
    return None


def _of_codes(primaries: int, transfer: int) -> bytes | None:
    curve = {4: _power(2.2), 5: _power(2.8), 8: _power(1.0), 16: _pq, 18: _hlg}.get(transfer, _srgb)
    if primaries not in _PRIMARIES and curve is _srgb:
        return None
    return _profile(_PRIMARIES.get(primaries, _SRGB), curve)


def _of_gamma(info: dict[str | tuple[int, int], Any]) -> bytes | None:
    """By PNG's gAMA and cHRM, as browsers do."""
    gamma, points = info.get("gamma"), info.get("chromaticity")
    primaries: Primaries = (*points[2:], *points[:2]) if points and len(points) == 8 else _SRGB
    same = all(abs(a - b) < _NEAR for a, b in zip(primaries, _SRGB, strict=True))
    if not gamma or abs(gamma - _SRGB_GAMMA) < _NEAR:
        return None if same else _profile(primaries, _power(1 / gamma) if gamma else _srgb)
    return _profile(primaries, _power(1 / gamma))


def _srgb(code: Values) -> Values:
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _power(exponent: float) -> Curve:
    return lambda code: code**exponent


def _pq(code: Values) -> Values:
    power = code ** (1 / 78.84375)
    light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return _tone_mapped(10_000 * light)


def _hlg(code: Values) -> Values:
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return _tone_mapped(1000 * scene**1.2)


def _tone_mapped(light: Values) -> Values:
    """FFmpeg's `mobius` for light in cd/m²."""
    x, knee, peak = light / _WHITE, _KNEE, _PEAK
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    return np.minimum(np.where(x <= knee, x, (b**2 + 2 * b * knee + knee**2) / (b - a) * (x + a) / (x + b)), 1)


def _profile(primaries: Primaries, curve: Curve) -> bytes | None:
    """An ICC profile of version 2 for a display; None for primaries that make no colours."""
    try:
        columns = _columns(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    if not np.isfinite(columns).all() or np.abs(columns).max() > 100:
        return None
    tags = {b"wtpt": _xyz(_D50), b"cprt": b"text\0\0\0\0none\0", b"desc": b"desc" + bytes(87)}
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)}
    table = np.rint(curve(np.linspace(0, 1, _STEPS)) * 65535).astype(">u2").tobytes()
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv" + struct.pack(">II", 0, _STEPS) + table)
    directory, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        directory += name + struct.pack(">II", at + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", at + len(data), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"", b"acsp")
    head = head.ljust(68, b"\0") + _xyz(_D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + data


def _columns(primaries: Primaries) -> Values:
    """XYZ of red, green and blue, as columns, seen in the light of D50."""
    red, green, blue, white = (
        np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(*[iter(primaries)] * 2, strict=True)
    )
    plain = np.column_stack([red, green, blue])
    scaled = plain * np.linalg.solve(plain, white)
    seen: Values = np.linalg.inv(_TO_D50) @ np.diag((_TO_D50 @ _D50) / (_TO_D50 @ white)) @ _TO_D50 @ scaled
    return seen


def _xyz(values: Values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))
