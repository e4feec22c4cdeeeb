"""When to poll an attempt next: as rarely as its end is still seen in time, however many attempts there are."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque

from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job

FIRST_MS = 2_000
TOLD_FIRST_MS = 5_000
LEAST_MS = 750
MOST_MS = 30_000
# The share of an attempt's age to wait: where its end will be reported, and where only polling finds it.
TOLD, UNTOLD = 0.5, 0.15
# The share of such attempts that have ended when one is first polled.
USUAL = 0.65
# Planned, so that each of 5,000 attempts is polled within 53 s. Late polls are caught up with at 100 a second.
LOOKS_A_SECOND = 95
_REMEMBERED = 20


class PollScheduler:
    """Learns how long attempts take and spreads the polls. Safe to share between threads; times in ms."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[str, str], deque[int]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._planned: Counter[int] = Counter()
        self._lock = threading.Lock()

    def learn(self, job: Job, attempt: Attempt, took_ms: int | None = None) -> None:
        """Remember how long an attempt that is done took since its submit; `took_ms` is the provider's own figure."""
        if attempt.state is AttemptState.DONE and attempt.ended_at and attempt.sent_at:
            with self._lock:
                lengths = self._lengths[attempt.provider, job.operation]
                lengths.append(attempt.ended_at - attempt.sent_at if took_ms is None else took_ms)

    def pause_ms(self, attempt: Attempt, operation: str, now: int, *, told: bool) -> int:
        """Return the pause before the attempt's next poll. `told`: its claim and end will be reported."""
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
        """Return `wished_ms`, or longer where too many polls are planned for then."""
        with self._lock:
            return self._free_ms(now, wished_ms)

    def _free_ms(self, now: int, wished: float) -> int:
        """Return `wished`, or longer where that second is full."""
        for second in [second for second in self._planned if second < now // 1000]:
            del self._planned[second]
        second = int(now + wished) // 1000
        shift = 0
        while self._planned[second + shift] >= LOOKS_A_SECOND:
            shift += 1
        self._planned[second + shift] += 1
        return round(wished) + shift * 1000
