"""The states of a webhook, without sending one."""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest

from gateway.domain import webhooks
from gateway.domain.webhooks import Outcome, Webhook

NOW_S = 1_700_000_000
DAY_S = 86_400


def after_try(outcome: Outcome, now: int = 1_700_000_000_000, tries: int = 0) -> Webhook:
    return webhooks.tried(Webhook("job_1", "key_1", "h:80", webhooks.WebhookState.PENDING, tries=tries), outcome, now)


def test_pauses_vary_by_ten_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks.random, "uniform", random.Random(7).uniform)
    pauses = [(after_try(Outcome(500), 0, tries=1).next_at or 0) / 1000 for _ in range(200)]
    assert 270 <= min(pauses) < 275 and 325 < max(pauses) <= 330


@pytest.mark.parametrize(
    ("status", "retry_after", "pause_s"),
    [
        (503, None, 5),
        (503, "120", 120),
        (429, "120", 120),
        (429, "1", 5),
        (429, "0", 5),
        (429, "86401", DAY_S),
        (429, "999999999999999999999999", 5),
        (429, "-5", 5),
        (429, "1.5", 5),
        (429, "²", 5),
        (429, "soon", 5),
        (503, formatdate(NOW_S + 600, usegmt=True), 600),
        (503, formatdate(NOW_S - 600, usegmt=True), 5),
        (503, formatdate(NOW_S + 9 * DAY_S, usegmt=True), DAY_S),
        (503, "Fri, 31 Dec 9999 23:59:60 GMT", 5),
        (500, "120", 5),
        (302, "120", 5),
    ],
)
def test_a_receiver_may_postpone_the_next_try_by_a_day(
    monkeypatch: pytest.MonkeyPatch, status: int, retry_after: str | None, pause_s: int
) -> None:
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: 1.0)
    after = after_try(Outcome(status, retry_after=retry_after), NOW_S * 1000)
    assert after.next_at == (NOW_S + pause_s) * 1000


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ((200, 201, 202, 204, 299), "succeeded"),
        ((300, 301, 304, 307, 400, 401, 404, 408, 429, 500, 599), "pending"),
        ((410,), "failed"),
    ],
)
def test_the_status_of_the_response_decides_the_state(statuses: tuple[int, ...], state: str) -> None:
    for status in statuses:
        after = after_try(Outcome(status))
        assert (after.state, after.tries, after.last_status_code) == (state, 1, status)
        assert (after.next_at is None) == (state != "pending")
