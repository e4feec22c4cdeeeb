"""Reads and writes the pipes of a running command, on threads where it must not wait for them."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import IO

import structlog

from ffmpeg_ops.operation import Work
from wire.errors import JobError, JobTimeout

log = structlog.get_logger(__name__)

POLL_S = 0.1  # how often a stop is looked for
_LINE_BYTES = 64_000


def read_lines(pipe: IO[bytes] | None, consume: Callable[[str], object]) -> threading.Thread:
    """Pass the lines of `pipe` to `consume` until it ends."""

    def loop() -> None:
        assert pipe is not None
        try:
            while line := pipe.readline(_LINE_BYTES):
                consume(line.decode("utf-8", "replace").rstrip("\n"))
        except ValueError:
            pass  # the pipe was closed because the command was killed
        finally:
            close(pipe)

    return in_thread(loop)


def blocks(pipe: IO[bytes] | None, block_bytes: int, work: Work, ends_at: float) -> Iterator[bytes]:
    """What comes out of `pipe`, in blocks of which only the last may be shorter.

    Raises the reason of `work.stop`, and JobTimeout at `ends_at` of the monotonic clock.
    """
    assert pipe is not None
    block, filled = bytearray(block_bytes), 0
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    while True:
        work.stop.check()
        if time.monotonic() > ends_at:
            raise JobTimeout
        if not ready.poll(POLL_S * 1000):
            continue
        read = os.readv(pipe.fileno(), [memoryview(block)[filled:]])
        filled += read
        if filled and (filled == block_bytes or not read):
            yield bytes(block[:filled])
            filled = 0
        if not read:
            return


def write(
    pipe: IO[bytes] | None, feed: Iterable[bytes], on_fed: Callable[[], object], errors: list[Exception]
) -> threading.Thread:
    """Write `feed` to `pipe`, and close both. What it raises is added to `errors`."""

    def loop() -> None:
        assert pipe is not None
        pieces = iter(feed)
        try:
            for piece in pieces:
                on_fed()
                if not _written(pipe, piece):
                    break
        except JobError as error:
            errors.append(error)
        except Exception as error:
            log.exception("process.feed_failed")
            errors.append(error)
        finally:
            if isinstance(pieces, Generator):
                pieces.close()
            close(pipe)

    return in_thread(loop)


def _written(pipe: IO[bytes], piece: bytes) -> bool:
    """Write a piece; False where the command has ended or was killed, which its exit status says as well."""
    try:
        pipe.write(piece)
    except (BrokenPipeError, ValueError):
        return False
    return True


def close(pipe: IO[bytes] | None) -> None:
    """Close a pipe, whatever its other end does."""
    with suppress(OSError, ValueError):  # leftovers in the buffer for a dead command
        if pipe is not None:
            pipe.close()


def in_thread(target: Callable[[], object]) -> threading.Thread:
    """Run `target` on a thread that does not keep the process alive."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread
