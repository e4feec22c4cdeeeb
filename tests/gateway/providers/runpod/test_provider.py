"""What the provider makes of each of RunPod's responses, which come from the stand-in."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common.settings import SettingsError, read
from gateway.configuration import check
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import MARGIN_MS
from gateway.domain.prices import Price
from gateway.providers import http
from gateway.providers.base import Accepted, Ambiguous, NotYet, Phase, Refused, Unavailable
from gateway.providers.runpod.provider import RunPodProvider, job_error, why_waiting
from gateway.providers.runpod.settings import RunPodSettings
from gateway.providers.throttling import Breaker
from gateway.settings import Settings
from tests.emulators.runpod import Emulator
from tests.emulators.runpod.jobs import Job
from tests.gateway.conftest import FixedClock
from tests.gateway.providers.conftest import (
    WORKER,
    attempt_named,
    job_input,
    runpod_provider,
    runpod_provider_at,
    runpod_settings,
    taken,
)
from tests.servers import FileServer, Reply
from wire.errors import JobTimeout, WorkerError, WorkerLost

NO_WORKERS = "the endpoint has no workers; its max workers may be 0"
ENDED = {"workers": {"idle": 0, "initializing": 0, "ready": 0, "running": 0, "throttled": 0, "unhealthy": 0}}


@pytest.fixture
def provider(runpod: Emulator) -> RunPodProvider:
    return runpod_provider(runpod)


def new() -> Attempt:
    return attempt_named(remote_id=None)


def accepted(provider: RunPodProvider, attempt: Attempt | None = None) -> Attempt:
    attempt = attempt or new()
    answer = provider.submit(attempt, job_input(attempt))
    assert isinstance(answer, Accepted)
    return replace(attempt, remote_id=answer.remote_id)


def submit(provider: RunPodProvider) -> Accepted | NotYet:
    attempt = new()
    return provider.submit(attempt, job_input(attempt))


def queued(runpod: Emulator, attempt: Attempt) -> Job:
    job = runpod.queue.get(attempt.remote_id or "")
    assert job is not None
    return job


@pytest.fixture
def waiting(runpod: Emulator) -> tuple[RunPodProvider, Attempt]:
    """A provider, and an attempt that has waited in the queue for 20 s."""
    clock = FixedClock()
    provider = runpod_provider(runpod, clock)
    attempt = accepted(provider, replace(new(), sent_at=clock.now_ms()))
    assert provider.poll(attempt).reason is None
    assert runpod.calls["health"] == 0, "a short wait needs no reason"
    clock.advance(20_000)
    return provider, attempt


@pytest.mark.parametrize(
    ("deadline_s", "ttl_s"), [(4_000, 4_000 + MARGIN_MS / 1000), (8 * 86_400, 7 * 86_400)], ids=["short", "maximum"]
)
def test_the_job_goes_with_its_limits(runpod: Emulator, deadline_s: int, ttl_s: float) -> None:
    clock = FixedClock()
    attempt = replace(new(), deadline=clock.now_ms() + deadline_s * 1000)
    job = queued(runpod, accepted(runpod_provider(runpod, clock), attempt))
    assert job.input == json.loads(job_input(attempt).text)
    assert (job.execution_timeout_s, job.ttl_s) == (600 + MARGIN_MS / 1000, ttl_s)


def test_a_job_that_is_too_large_for_them_is_refused_without_a_call(runpod: Emulator, provider: RunPodProvider) -> None:
    attempt = new()
    with pytest.raises(Refused, match="too large"):
        provider.submit(attempt, job_input(attempt, subtitles="x" * 10_000_000))
    assert runpod.calls["run"] == 0


@pytest.mark.parametrize("fault", [{"kind": "status", "status": status} for status in (500, 502, 503, 504)] + [
    {"kind": "lost_reply"},
    {"kind": "lost_request"},
    {"kind": "garbage"},
    {"kind": "garbage", "body": '{"status": "IN_QUEUE"}'},
    {"kind": "garbage", "body": '{"id": 7}'},
    *({"kind": "garbage", "body": json.dumps({"id": given, "status": "IN_QUEUE"})}
      for given in ("", "..", "a/../b", "\ud800", "a\0b", "x" * 10_000)),
])  # fmt: skip
def test_a_submit_without_a_valid_response_is_ambiguous(
    runpod: Emulator, provider: RunPodProvider, fault: dict[str, Any]
) -> None:
    runpod.inject(on="run", **fault)
    attempt = new()
    with pytest.raises(Ambiguous):
        provider.submit(attempt, job_input(attempt))
    assert provider.poll(attempt).phase is Phase.WAITING, "RunPod does not know our own ids"
    provider.cancel(attempt)


def test_a_pause_that_would_last_for_ever_is_cut_short(files: FileServer) -> None:
    provider = runpod_provider_at(files)
    files.routes["/v2/ep/run"] = Reply(429, headers={"Retry-After": "9" * 400})
    attempt = new()
    answer = provider.submit(attempt, job_input(attempt))
    assert isinstance(answer, NotYet)
    assert answer.retry_in_s == 60
    assert provider._limiters["run"]._closed_until < time.monotonic() + 61


def test_silence_after_a_submit_is_ambiguous(
    runpod: Emulator, provider: RunPodProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 0.1)
    runpod.inject("slow", "run", seconds=1)
    with pytest.raises(Ambiguous):
        submit(provider)


@pytest.mark.parametrize(("status", "said"), [
    (401, "RUNPOD_API_KEY"),
    (403, "RUNPOD_API_KEY"),
    (402, "credit"),
    (404, "RUNPOD_ENDPOINT_ID"),
    (400, "an injected fault"),
    (418, "418"),
])  # fmt: skip
def test_a_submit_that_is_turned_away_ran_nowhere(
    runpod: Emulator, provider: RunPodProvider, status: int, said: str
) -> None:
    runpod.inject("status", "run", status=status)
    with pytest.raises(Unavailable, match=said):
        submit(provider)
    assert runpod.queue.counts()["inQueue"] == 0


def test_too_many_submits_wait(runpod: Emulator) -> None:
    clock = FixedClock()
    provider = runpod_provider(runpod, clock)
    runpod.inject("status", "run", status=429, times=None)
    attempt = replace(new(), created_at=clock.now_ms())
    answer = provider.submit(attempt, job_input(attempt))
    assert isinstance(answer, NotYet)
    assert 0 < answer.retry_in_s <= 5
    assert isinstance(provider.submit(attempt, job_input(attempt)), NotYet)
    assert runpod.calls["run"] == 1, "no call follows a 429 for a while"


def test_each_kind_of_call_has_its_own_limit(runpod: Emulator, provider: RunPodProvider) -> None:
    attempt = accepted(provider)
    runpod.inject("status", "run", status=429)
    assert isinstance(submit(provider), NotYet)
    assert provider.poll(attempt).phase is Phase.WAITING


@pytest.mark.parametrize("fault", [
    {"kind": "status", "status": 500}, {"kind": "status", "status": 429}, {"kind": "status", "status": 403},
    {"kind": "lost_reply"}, {"kind": "lost_request"},
])  # fmt: skip
@pytest.mark.parametrize("call", ["status", "cancel"])
def test_a_call_that_fails_may_be_made_again(
    runpod: Emulator, provider: RunPodProvider, call: str, fault: dict[str, Any]
) -> None:
    attempt = accepted(provider)
    act: Callable[[Attempt], object] = provider.poll if call == "status" else provider.cancel
    runpod.inject(on=call, **fault)
    with pytest.raises(Unavailable):
        act(attempt)


def test_a_status_without_a_state_is_asked_for_again(runpod: Emulator, provider: RunPodProvider) -> None:
    attempt = accepted(provider)
    runpod.inject("garbage", "status")
    with pytest.raises(Unavailable, match="invalid response"):
        provider.poll(attempt)
    assert provider.poll(attempt).phase is Phase.WAITING


def test_an_unknown_state_is_a_failure_and_the_job_is_cancelled(runpod: Emulator, provider: RunPodProvider) -> None:
    attempt = accepted(provider)
    runpod.inject("garbage", "status", body='{"status": "PONDERING"}')
    remote = provider.poll(attempt)
    assert remote.phase is Phase.FAILED
    assert "PONDERING" in str(remote.error)
    assert runpod.job(attempt.remote_id or "")["status"] == "CANCELLED"


@pytest.mark.parametrize(
    "output",
    [
        {},
        *({"output": wrong} for wrong in (None, [], "done", {}, {"stats": 1})),
        {"output": {"outputs": {"video": {"size_bytes": 5}}, "stats": {"size_bytes": "many"}}},
    ],
)
def test_a_missing_or_invalid_result_is_a_failure(runpod: Emulator, provider: RunPodProvider, output: Any) -> None:
    attempt = accepted(provider)
    taken(runpod, attempt)
    runpod.queue.done(WORKER, attempt.remote_id or "", **output)
    assert runpod.job(attempt.remote_id or "")["status"] == "COMPLETED"
    remote = provider.poll(attempt)
    assert (remote.phase, type(remote.error)) == (Phase.FAILED, WorkerError)
    assert remote.execution_ms is not None


@pytest.mark.parametrize("given", [-5_000, 10**30, 1.5, "1200", True, None, float("nan"), [7]])
def test_an_invalid_duration_is_ignored(files: FileServer, given: Any) -> None:
    result = {
        "status": "COMPLETED",
        "output": {"outputs": {"video": {"size_bytes": 5}}, "stats": {"size_bytes": 1}},
        "executionTime": given,
        "delayTime": 7,
    }
    files.routes["/v2/ep/status/unknown"] = Reply(body=json.dumps(result).encode())
    remote = runpod_provider_at(files).poll(attempt_named())
    assert (remote.phase, remote.execution_ms, remote.took_ms) == (Phase.COMPLETED, None, None)


def test_a_result_that_expired_is_gone(runpod: Emulator, provider: RunPodProvider) -> None:
    attempt = accepted(provider)
    runpod.inject("expired", "status")
    assert provider.poll(attempt).phase is Phase.GONE
    assert provider.poll(replace(attempt, claimed_at=1)).phase is Phase.RUNNING, "its claim is newer"


def test_a_job_that_ran_too_long_there_timed_out(runpod: Emulator, provider: RunPodProvider) -> None:
    attempt = accepted(provider)
    taken(runpod, attempt)
    queued(runpod, attempt).execution_timeout_s = 0
    runpod.queue.sweep()
    assert type(provider.poll(attempt).error) is JobTimeout


@pytest.mark.parametrize(("given", "kind"), [
    ("job timed out after 1 retries", WorkerLost),
    ('{"error_type": "<class \'KeyError\'>", "error_message": "x", "error_traceback": "…"}', WorkerError),
    ('{"code": "asset_not_found", "message": "video: 404"}', WorkerError),
    ("[" * 100_000, WorkerError),
    ({"code": "x"}, WorkerError),
    (None, WorkerError),
    (7, WorkerError),
])  # fmt: skip
def test_an_error_that_the_worker_did_not_report_is_tried_again(given: Any, kind: type[Exception]) -> None:
    error = job_error(given)
    assert type(error) is kind
    assert error.retryable
    assert "error_traceback" not in error.message and "KeyError" not in error.message


def test_a_long_wait_has_a_reason(runpod: Emulator, waiting: tuple[RunPodProvider, Attempt]) -> None:
    provider, attempt = waiting
    for _ in range(2):
        remote = provider.poll(attempt)
        assert (remote.phase, remote.reason) == (Phase.WAITING, NO_WORKERS)
    assert runpod.calls["health"] == 1, "what /health says is kept for a while"


def test_a_health_call_that_hangs_delays_one_poll_alone(
    waiting: tuple[RunPodProvider, Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, attempt = waiting
    hanging, go_on, ask = threading.Event(), threading.Event(), provider._ask

    def hang(kind: str, method: str, path: str) -> Any:
        if kind == "health":
            hanging.set()
            go_on.wait(30)
        return ask(kind, method, path)

    monkeypatch.setattr(provider, "_ask", hang)
    asking = threading.Thread(target=provider.poll, args=(attempt,))
    asking.start()
    assert hanging.wait(30)
    assert provider.poll(attempt).reason == "RunPod has not given a reason yet"
    assert not go_on.is_set() and asking.is_alive()
    go_on.set()
    asking.join()
    assert provider.poll(attempt).reason == NO_WORKERS


def test_a_health_that_fails_is_asked_once(runpod: Emulator, waiting: tuple[RunPodProvider, Attempt]) -> None:
    provider, attempt = waiting
    runpod.inject("lost_reply", "health", times=None)
    reasons = {provider.poll(attempt).reason for _ in range(5)}
    assert reasons == {"RunPod cannot be reached: ConnectionError"}
    assert runpod.calls["health"] == 1


@pytest.mark.parametrize(("workers", "cause"), [
    ({}, "max workers may be 0"),
    ({"unhealthy": 2}, r"crash when they start \(2 unhealthy\)"),
    ({"unhealthy": 1, "initializing": 1}, "crash"),
    ({"initializing": 1}, "still starting"),
    ({"throttled": 3}, r"no GPU free for it \(3 throttled\)"),
    ({"throttled": 3, "running": 1}, "busy"),
    ({"idle": 1, "unhealthy": 1}, "busy"),
    ({"idle": "many"}, "max workers may be 0"),
])  # fmt: skip
def test_the_cause_is_named(workers: dict[str, Any], cause: str) -> None:
    assert re.search(cause, why_waiting({"workers": {**ENDED["workers"], **workers}}))


@pytest.mark.parametrize("health", [{}, {"workers": None}, {"workers": [1]}])
def test_a_health_without_workers_is_no_error(health: dict[str, Any]) -> None:
    assert why_waiting(health) == "RunPod gives no reason"


def test_an_endpoint_that_keeps_failing_is_left_alone_and_tried_again(
    runpod: Emulator, provider: RunPodProvider
) -> None:
    now = 100.0
    provider._breaker = Breaker(3, 30, now=lambda: now)
    runpod.inject("status", "*", status=503, times=None)
    for _ in range(3):
        with pytest.raises(Ambiguous):
            submit(provider)
    for _ in range(20):
        with pytest.raises(Unavailable, match="keeps failing") as caught:
            submit(provider)
        assert caught.value.retry_in_s == 30
    assert runpod.calls["run"] == 3
    now += 30
    with pytest.raises(Unavailable):
        provider.check()
    with pytest.raises(Unavailable, match="keeps failing"):
        provider.check()
    assert runpod.calls["health"] == 1, "one call tries, and it failed"
    runpod.faults.clear()
    now += 60
    provider.check()
    accepted(provider)


def test_the_management_host_is_no_job_base() -> None:
    for url in ("https://api.runpod.io/v2", "https://rest.runpod.io/v1", "https://API.RunPod.io:443/v2"):
        with pytest.raises(SettingsError, match=r"RUNPOD_API_BASE: Is RunPod's management API; jobs go to .*\.ai/v2"):
            read(RunPodSettings, {"RUNPOD_API_BASE": url})


def test_what_runpod_needs_is_asked_for_together(runpod: Emulator) -> None:
    with pytest.raises(SettingsError) as caught:
        check(Settings(providers=("runpod",), secret_key=()))
    assert all(name in str(caught.value) for name in ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID", "PUBLIC_URL"))
    check(runpod_settings(runpod))


def test_a_price_is_that_of_the_gpu_else_of_the_last_one(runpod: Emulator) -> None:
    provider = runpod_provider(runpod, own={"gpu_prices": {"ADA_24": 999, "AMPERE_16": 0}})
    assert provider.price(attempt_named(), None).nano_per_s == 1_110_000, "the most expensive that can encode"
    assert provider.price(attempt_named(), "NVIDIA L4").nano_per_s == 190_000
    assert provider.price(attempt_named(), "a GPU of tomorrow").nano_per_s == 190_000
    assert provider.price(attempt_named(), "NVIDIA GeForce RTX 4090").nano_per_s == 999
    assert provider.price(attempt_named(), None) == Price(999, idle_s=300)
    assert provider.price(attempt_named(), "NVIDIA RTX A4000").nano_per_s == 0, "a price of nothing is one"


def test_a_worker_that_runpod_lost_is_not_lost_while_its_claim_lives(
    runpod: Emulator, provider: RunPodProvider
) -> None:
    attempt = accepted(provider)
    taken(runpod, attempt)
    runpod.queue.done(WORKER, attempt.remote_id or "", error="job timed out after 1 retries")
    assert type(provider.poll(attempt).error) is WorkerLost
    assert provider.poll(replace(attempt, claimed_at=1)).phase is Phase.RUNNING
