"""When attempts are looked at: late enough to be cheap, soon enough to see an end, never too many at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from gateway.dispatch.poll_schedule import FIRST_MS, FIRST_WITH_EVENTS_MS, MAX_MS, MIN_MS, POLLS_PER_S, PollScheduler
from gateway.domain.attempts import AttemptState
from tests.gateway.conftest import START_MS, new_attempt, new_job

JOB = new_job(START_MS, operation="img2vid")
ATTEMPT = replace(new_attempt(JOB, START_MS), sent_at=START_MS)


def learnt(*lengths_ms: int) -> PollScheduler:
    poll_scheduler = PollScheduler()
    for length in lengths_ms:
        poll_scheduler.learn(JOB, replace(ATTEMPT, state=AttemptState.DONE, ended_at=START_MS + length))
    return poll_scheduler


def pause(poll_scheduler: PollScheduler, age_ms: int, *, events: bool = False) -> int:
    return poll_scheduler.pause_ms(ATTEMPT, "img2vid", START_MS + age_ms, events=events)


def test_the_first_look_is_when_such_jobs_usually_end() -> None:
    assert pause(learnt(*range(1_000, 11_000, 1_000)), 0) == 7_000, "when two of three have ended"
    assert pause(learnt(7_000), 3_000) == 4_000


def test_once_it_should_have_ended_looks_come_soon_and_then_more_seldom() -> None:
    poll_scheduler = learnt(4_000)
    assert pause(poll_scheduler, 4_000) == MIN_MS
    assert pause(poll_scheduler, 20_000) == 3_000
    assert pause(poll_scheduler, 3_600_000) == MAX_MS


def test_the_providers_word_on_the_length_goes_before_when_we_saw_the_end() -> None:
    poll_scheduler = PollScheduler()
    poll_scheduler.learn(JOB, replace(ATTEMPT, state=AttemptState.DONE, ended_at=START_MS + 9_000), took_ms=6_500)
    assert pause(poll_scheduler, 0) == 6_500


def test_nothing_is_known_of_another_operation_or_of_attempts_that_failed() -> None:
    poll_scheduler = learnt(50)
    assert poll_scheduler.pause_ms(ATTEMPT, "caption", START_MS, events=False) == FIRST_MS
    failed = PollScheduler()
    failed.learn(JOB, replace(ATTEMPT, state=AttemptState.FAILED, ended_at=START_MS + 50))
    assert pause(failed, 0) == FIRST_MS


def test_with_events_polls_are_only_a_safety_net() -> None:
    poll_scheduler = learnt(1_000)
    assert pause(poll_scheduler, 0, events=True) == FIRST_WITH_EVENTS_MS
    assert pause(poll_scheduler, 20_000, events=True) == 10_000
    assert pause(poll_scheduler, 600_000, events=True) == MAX_MS


def test_five_thousand_attempts_are_looked_at_less_than_a_hundred_times_a_second_and_within_a_minute_each() -> None:
    poll_scheduler = PollScheduler()
    looks: Counter[int] = Counter()
    for _ in range(5_000):
        looks[(START_MS + pause(poll_scheduler, 0, events=True)) // 1000] += 1
    assert max(looks.values()) == POLLS_PER_S < 100
    assert max(looks) - START_MS // 1000 < 60


def test_seconds_that_are_over_are_forgotten() -> None:
    poll_scheduler = PollScheduler()
    for second in range(1_000):
        pause(poll_scheduler, second * 1_000)
    assert len(poll_scheduler._planned) < 60
