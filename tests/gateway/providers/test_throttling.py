"""Rate limiters and breakers, on a clock that the test moves."""

from __future__ import annotations

import threading

import pytest

from gateway.providers.throttling import Breaker, RateLimited, RateLimiter


class Now:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_the_window_of_calls_slides() -> None:
    now = Now()
    limiter = RateLimiter(3, 10, 99, now)
    for _ in range(3):
        with limiter.call(0):
            now.s += 1
    with pytest.raises(RateLimited) as caught, limiter.call(0):
        pass
    assert caught.value.retry_in_s == 7
    now.s += 7
    with limiter.call(0):
        pass
    with pytest.raises(RateLimited) as caught, limiter.call(0):
        pass
    assert caught.value.retry_in_s == 1


def test_a_call_waits_until_another_ends() -> None:
    limiter = RateLimiter(99, 10, 2)
    inside, leave = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        with limiter.call(60):
            inside.release()
            leave.wait(30)

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert inside.acquire(timeout=30)
    assert not inside.acquire(timeout=0.1)
    with pytest.raises(RateLimited), limiter.call(0.05):
        pass
    leave.set()
    for thread in threads:
        thread.join()
    assert inside.acquire(timeout=30)


def test_a_call_that_fails_gives_its_place_back() -> None:
    limiter = RateLimiter(99, 10, 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limiter.call(0):
            1 / 0  # noqa: B018


def test_a_closed_limiter_refuses_every_call_at_once() -> None:
    now = Now()
    limiter = RateLimiter(99, 10, 99, now)
    limiter.close(5)
    limiter.close(1)
    with pytest.raises(RateLimited) as caught, limiter.call(2):
        pass
    assert caught.value.retry_in_s == 5
    now.s += 5
    with limiter.call(0):
        pass


def test_a_place_is_waited_for() -> None:
    limiter = RateLimiter(1, 0.1, 9)
    for wait_s in (0, 30):
        with limiter.call(wait_s):
            pass


def test_a_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(3, 30, now=Now())
    for _ in range(5):
        assert not breaker.failed()
        assert not breaker.failed()
        assert not breaker.succeeded()
        assert breaker.closed_in_s() == 0
    assert [breaker.failed() for _ in range(4)] == [False, False, True, False]
    assert breaker.closed_in_s() == 30


def test_one_caller_probes_while_the_others_wait() -> None:
    now = Now()
    breaker = Breaker(1, 2, 10, now)
    breaker.failed()
    breaker.failed()  # it was under way already
    now.s += 2
    assert [breaker.closed_in_s() for _ in range(3)] == [0, 2, 2]
    for pause in (4, 8, 10, 10):
        breaker.failed()
        assert breaker.closed_in_s() == pause
        now.s += pause
        assert breaker.closed_in_s() == 0
    assert breaker.succeeded()
    assert [breaker.closed_in_s() for _ in range(3)] == [0, 0, 0]
    breaker.failed()
    assert breaker.closed_in_s() == 2
