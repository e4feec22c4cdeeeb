"""Decompresses bodies that servers send compressed although nobody asked: under a limit, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_PIECE_BYTES = 64 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # the header says which


class Damaged(Exception):
    """The body is not what its Content-Encoding says, or ends early."""


class Decoder:
    """Decodes one body. `coding` is its Content-Encoding; a coding other than gzip and deflate is left as it is."""

    def __init__(self, coding: str) -> None:
        self.is_active = coding.strip().lower() in {"gzip", "x-gzip", "deflate"}
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._begun = False

    def decoded(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what `chunk` adds to the body, in pieces of limited size. Raises Damaged."""
        if not self.is_active:
            yield chunk
            return
        try:
            while chunk:
                if self._stream.eof:  # gzip may consist of several members
                    self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
                self._begun = True
                yield self._stream.decompress(chunk, _PIECE_BYTES)
                chunk = self._stream.unconsumed_tail or self._stream.unused_data
        except zlib.error as error:
            raise Damaged(str(error)) from error

    def end(self) -> None:
        """Raise Damaged if the body ended early."""
        if self._begun and not self._stream.eof:
            raise Damaged("the compressed body ends early")
