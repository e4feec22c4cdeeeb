"""The contract of `gateway/providers/base.py`, held against every provider."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.domain.attempts import Attempt
from gateway.providers.base import Accepted, Ambiguous, NotYet, Phase, Unavailable
from tests.gateway.providers.conftest import Stand, attempt_named, job_input
from wire.errors import AssetNotFound, Cancelled, EncodeFailed, JobError, WorkerOutdated


def accepted(stand: Stand) -> Attempt:
    attempt = attempt_named(remote_id=None)
    answer = stand.provider.submit(attempt, job_input(attempt))
    assert isinstance(answer, Accepted)
    assert answer.remote_id
    return replace(attempt, remote_id=answer.remote_id)


def test_a_provider_carries_its_name(stand: Stand, request: pytest.FixtureRequest) -> None:
    assert stand.provider.name == request.node.callspec.params["stand"]


def test_an_accepted_attempt_is_running_once_a_worker_has_it(stand: Stand) -> None:
    attempt = accepted(stand)
    if stand.slots is None:
        assert stand.provider.poll(attempt).phase is Phase.WAITING
    stand.there(attempt).progress(0.25)
    remote = stand.provider.poll(attempt)
    assert (remote.phase, remote.progress, remote.result, remote.error) == (Phase.RUNNING, 0.25, None, None)


def test_an_attempt_that_is_submitted_twice_runs_once(stand: Stand) -> None:
    if stand.slots is None:
        pytest.skip("a queue cannot know; the claim decides")
    attempt = accepted(stand)
    stand.there(attempt).progress(0.5)
    assert stand.provider.submit(attempt, job_input(attempt)) == Accepted(attempt.remote_id or "")
    assert stand.provider.poll(attempt).progress == 0.5


def test_a_full_provider_is_not_yet_and_keeps_nothing(stand: Stand) -> None:
    if stand.slots is None:
        pytest.skip("a queue has room")
    for _ in range(stand.slots):
        accepted(stand)
    attempt = attempt_named()
    answer = stand.provider.submit(attempt, job_input(attempt))
    assert isinstance(answer, NotYet)
    assert answer.reason
    assert answer.retry_in_s > 0
    assert stand.provider.poll(attempt).phase is Phase.GONE


def test_a_completed_attempt_comes_with_its_result(stand: Stand) -> None:
    attempt = accepted(stand)
    stand.there(attempt).complete(
        {"outputs": {"video": {"size_bytes": 5}}, "stats": {"size_bytes": 5, "a newer worker's": 1}}
    )
    remote = stand.provider.poll(attempt)
    assert (remote.phase, remote.result, remote.error) == (
        Phase.COMPLETED,
        {"outputs": {"video": {"size_bytes": 5}}, "stats": {"size_bytes": 5}},
        None,
    )


@pytest.mark.parametrize("error", [AssetNotFound("video: 404"), EncodeFailed(), WorkerOutdated("no"), Cancelled()])
def test_a_failed_attempt_comes_with_its_error(stand: Stand, error: JobError) -> None:
    attempt = accepted(stand)
    stand.there(attempt).fail(error)
    remote = stand.provider.poll(attempt)
    assert (remote.phase, type(remote.error), str(remote.error)) == (Phase.FAILED, type(error), str(error))


def test_an_unknown_attempt_is_gone_and_its_cancel_no_error(stand: Stand) -> None:
    assert stand.provider.poll(attempt_named(stand.unknown)).phase is Phase.GONE
    stand.provider.cancel(attempt_named(stand.unknown))


def test_a_cancelled_attempt_is_stopped(stand: Stand) -> None:
    attempt = accepted(stand)
    there = stand.there(attempt)
    stand.provider.cancel(attempt)
    stand.provider.cancel(attempt)
    assert there.told_to_stop()


def test_an_outdated_worker_is_unavailable(stand: Stand) -> None:
    if stand.slots is None:
        pytest.skip("its workers report it after they have taken the attempt")
    attempt = attempt_named()
    with pytest.raises(Unavailable, match="does not know"):
        stand.provider.submit(attempt, job_input(attempt, "operation_of_tomorrow"))
    with pytest.raises(Unavailable, match="param_of_tomorrow"):
        stand.provider.submit(attempt, job_input(attempt, param_of_tomorrow=1))
    with pytest.raises(Unavailable, match="duration"):
        stand.provider.submit(attempt, job_input(attempt, "img2vid", url_image="http://example.com/i.jpg", duration=-1))


def test_a_provider_that_refuses_our_key_is_unavailable(stand: Stand) -> None:
    stand.lock_out()
    attempt = attempt_named(stand.unknown)
    for call in (
        lambda: stand.provider.submit(attempt, job_input(attempt)),
        lambda: stand.provider.poll(attempt),
        lambda: stand.provider.cancel(attempt),
        lambda: stand.provider.check(),
    ):
        with pytest.raises(Unavailable):
            call()


def test_a_provider_that_is_down_is_unavailable(stand: Stand) -> None:
    stand.stop()
    attempt = attempt_named(stand.unknown)
    try:
        assert isinstance(stand.provider.submit(attempt, job_input(attempt)), NotYet)
    except (Unavailable, Ambiguous) as error:
        assert not isinstance(error, Ambiguous), "nothing was sent, so nothing can run"
    for call in (stand.provider.poll, stand.provider.cancel):
        with pytest.raises(Unavailable):
            call(attempt)
    with pytest.raises(Unavailable):
        stand.provider.check()


def test_a_price_is_one_or_none_whatever_the_gpu(stand: Stand) -> None:
    for gpu in (None, "NVIDIA L4", "a GPU of tomorrow"):
        price = stand.provider.price(attempt_named(stand.unknown), gpu)
        assert price is None or price.nano_per_s > 0


def test_check_and_reconcile_are_quiet_when_all_is_well(stand: Stand) -> None:
    stand.provider.check()
    stand.provider.reconcile()
