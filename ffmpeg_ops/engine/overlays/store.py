"""Keeps the layers of all overlays of a film in one file, and those that were used last in memory.

A film may have hundreds of overlays of the size of its frames, and an animation has hundreds of pictures: the memory
they take does not grow with their number.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffmpeg_ops.engine.i420 import Layer
from wire.errors import JobTooLarge

MAX_BYTES = 2_000_000_000
CACHE_BYTES = 64_000_000


@dataclass(frozen=True)
class Kept:
    """Where a layer is in the file."""

    #: Its first byte.
    at: int
    #: Left and top edge, width and height.
    box: tuple[int, int, int, int]

    @property
    def size_bytes(self) -> int:
        """Y and its alpha, and three planes of a quarter of its size."""
        return self.box[2] * self.box[3] * 11 // 4


class LayerStore:
    """The layers of a film; safe to share between threads."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, cache_bytes: int = CACHE_BYTES) -> None:
        self._file = path.open("w+b", buffering=0)
        self._end, self._max_bytes, self._cache_bytes = 0, max_bytes, cache_bytes
        self._cached: OrderedDict[Kept, Layer] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the file; layers that were returned stay valid."""
        self._file.close()

    def keep(self, layer: Layer) -> Kept:
        """Write a layer with alpha. Raises JobTooLarge past `max_bytes`."""
        assert layer.alphas is not None
        kept = Kept(self._end, (layer.x, layer.y, *layer.size))
        if self._end + kept.size_bytes > self._max_bytes:
            raise JobTooLarge(f"The overlays have more than {self._max_bytes / 1e9:.3g} GB of pixels.")
        for plane in (layer.colors[0], layer.alphas[0], *layer.colors[1:], layer.alphas[1]):
            self._file.write(plane.tobytes())
        self._end += kept.size_bytes
        return kept

    def get(self, kept: Kept) -> Layer:
        """The layer that was kept, from memory or the file."""
        with self._lock:
            if kept in self._cached:
                self._cached.move_to_end(kept)
                return self._cached[kept]
        layer = self._read(kept)
        with self._lock:
            if kept not in self._cached:
                self._cached[kept] = layer
                self._cached_bytes += kept.size_bytes
            while self._cached_bytes > self._cache_bytes and len(self._cached) > 1:
                old, _ = self._cached.popitem(last=False)
                self._cached_bytes -= old.size_bytes
        return layer

    def _read(self, kept: Kept) -> Layer:
        x, y, width, height = kept.box
        content = np.frombuffer(os.pread(self._file.fileno(), kept.size_bytes, kept.at), np.uint8)
        luma, chroma = width * height, width * height // 4
        edges = (luma, 2 * luma, 2 * luma + chroma, 2 * luma + 2 * chroma)
        y_plane, alpha, cb, cr, chroma_alpha = np.split(content, edges)
        half = (height // 2, width // 2)
        colors = (y_plane.reshape(height, width), cb.reshape(half), cr.reshape(half))
        return Layer(x, y, colors, (alpha.reshape(height, width), chroma_alpha.reshape(half)))
