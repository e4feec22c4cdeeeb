"""When to look at an attempt again: as seldom as its end is still seen in time, whatever the number of attempts."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque

from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job

FIRST_MS = 2_000
TOLD_FIRST_MS = 5_000
LEAST_MS = 750
MOST_MS = 30_000
# ThreadLimits of an attempt's age to wait: where its end will be told, and where only looking tells.
TOLD, UNTOLD = 0.5, 0.15
# How many of such attempts have ended when one is looked at first.
USUAL = 0.65
# Planned, so that each of 5,000 attempts is looked at within 53 s. What is late may be made up for at 100 a second.
LOOKS_A_SECOND = 95
_REMEMBERED = 20


class PollScheduler:
    """Learns how long attempts take and spreads the looks. Safe to share between threads; times in ms."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[str, str], deque[int]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._planned: Counter[int] = Counter()
        self._lock = threading.Lock()

    def learn(self, job: Job, attempt: Attempt, took_ms: int | None = None) -> None:
        """How long an attempt that ended well took, from its submit on: by the provider's word, or as it was told."""
        if attempt.state is AttemptState.DONE and attempt.ended_at and attempt.sent_at:
            with self._lock:
                lengths = self._lengths[attempt.provider, job.operation]
                lengths.append(attempt.ended_at - attempt.sent_at if took_ms is None else took_ms)

    def pause_ms(self, attempt: Attempt, operation: str, now: int, *, told: bool) -> int:
        """Until the next look at an unfinished attempt. `told`: its claim and its end will be reported."""
        age = max(0, now - (attempt.sent_at or attempt.created_at))
        with self._lock:
            lengths = self._lengths.get((attempt.provider, operation))
            if told:
                wished = max(TOLD_FIRST_MS, age * TOLD)
            elif lengths and age < (usual := sorted(lengths)[int(USUAL * len(lengths))]):
                wished = max(LEAST_MS, usual - age)
            else:
                wished = max(LEAST_MS if lengths else FIRST_MS, age * UNTOLD)
            return self._free_ms(now, min(MOST_MS, wished))

    def spread_ms(self, now: int, wished_ms: int) -> int:
        """`wished_ms`, or longer where as many looks as there may be are planned then."""
        with self._lock:
            return self._free_ms(now, wished_ms)

    def _free_ms(self, now: int, wished: float) -> int:
        """`wished`, or later where that second is full."""
        for second in [second for second in self._planned if second < now // 1000]:
            del self._planned[second]
        second = int(now + wished) // 1000
        shift = 0
        while self._planned[second + shift] >= LOOKS_A_SECOND:
            shift += 1
        self._planned[second + shift] += 1
        return round(wished) + shift * 1000
