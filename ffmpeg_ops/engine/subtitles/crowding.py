"""Leaves out captions for which the frame has no room beside those that are shown at the same time.

libass stacks such captions, and those that do not fit any more lie outside the frame for as long as they are shown. It
draws them all the same, and fifty captions as large as the frame take gigabytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import pysubs2

# In frames: while others end and begin, gaps may remain in the stack.
_MAX_STACK = 2


@dataclass(frozen=True)
class Drawn:
    """A caption as it is drawn."""

    #: Its text and times.
    event: pysubs2.SSAEvent
    #: How high it is, at least, in pixels.
    height: float


def with_room(captions: Sequence[Drawn], frame_height: int) -> list[pysubs2.SSAEvent]:
    """The captions for which there is room, in the given order. Whichever begins first is placed first."""
    shown: list[
        tuple[int, float]
    ] = []  # (end, height) of those that are shown at the same time, the first to end first
    kept: set[int] = set()
    for i in sorted(range(len(captions)), key=lambda i: captions[i].event.start):
        event, height = captions[i].event, captions[i].height
        while shown and shown[0][0] <= event.start:
            heapq.heappop(shown)
        if sum(height for _, height in shown) < _MAX_STACK * frame_height:
            heapq.heappush(shown, (event.end, height))
            kept.add(i)
    return [caption.event for i, caption in enumerate(captions) if i in kept]
