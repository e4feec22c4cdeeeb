"""Decides when to poll an attempt next: soon enough to see its end in time, within the limit for all attempts."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque

from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job

FIRST_MS = 2_000
FIRST_WITH_EVENTS_MS = 5_000
MIN_MS = 750
MAX_MS = 30_000
# Pause as a share of the attempt's age, with and without events.
SHARE_WITH_EVENTS, SHARE_WITHOUT_EVENTS = 0.5, 0.15
# Without events, an attempt is first polled at the age by which this share of earlier attempts had ended.
USUAL = 0.65
# Maximum polls planned per second: each of 5,000 attempts is polled within 53 s. With delayed polls, the rate may reach
# about 100.
POLLS_PER_S = 95
_REMEMBERED = 20


class PollScheduler:
    """Learns how long attempts take, and spreads their polls. Safe to share between threads; times in ms."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[str, str], deque[int]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._planned: Counter[int] = Counter()
        self._lock = threading.Lock()

    def learn(self, job: Job, attempt: Attempt, took_ms: int | None = None) -> None:
        """Remember how long a completed attempt took since its submit, or `took_ms` if its provider reports that."""
        if attempt.state is AttemptState.DONE and attempt.ended_at and attempt.sent_at:
            with self._lock:
                lengths = self._lengths[attempt.provider, job.operation]
                lengths.append(attempt.ended_at - attempt.sent_at if took_ms is None else took_ms)

    def pause_ms(self, attempt: Attempt, operation: str, now: int, *, events: bool) -> int:
        """Return the pause before the attempt's next poll. `events`: its claim and end will be reported."""
        age = max(0, now - (attempt.sent_at or attempt.created_at))
        with self._lock:
            lengths = self._lengths.get((attempt.provider, operation))
            if events:
                pause = max(FIRST_WITH_EVENTS_MS, age * SHARE_WITH_EVENTS)
            elif lengths and age < (usual := sorted(lengths)[int(USUAL * len(lengths))]):
                pause = max(MIN_MS, usual - age)
            else:
                pause = max(MIN_MS if lengths else FIRST_MS, age * SHARE_WITHOUT_EVENTS)
            return self._free_ms(now, min(MAX_MS, pause))

    def spread_ms(self, now: int, pause_ms: int) -> int:
        """Return `pause_ms`, or more if too many polls are already planned for that second."""
        with self._lock:
            return self._free_ms(now, pause_ms)

    def _free_ms(self, now: int, pause: float) -> int:
        """Return `pause`, or more if that second is full, and plan the poll."""
        for second in [second for second in self._planned if second < now // 1000]:
            del self._planned[second]
        second = int(now + pause) // 1000
        shift = 0
        while self._planned[second + shift] >= POLLS_PER_S:
            shift += 1
        self._planned[second + shift] += 1
        return round(pause) + shift * 1000
