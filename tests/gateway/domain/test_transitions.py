"""The table of legal changes, tried in every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.domain import attempts, jobs, transitions
from gateway.domain.attempts import Attempt, AttemptState, IllegalChange
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.transitions import MAX_ENCODER_REFUSALS, MAX_TRIES, Pair
from gateway.errors import AttemptSuperseded, JobFinished
from tests.gateway.conftest import CLAIM, START_MS, new_attempt, new_job
from tests.outputs import stored_video
from wire.errors import (
    Cancelled,
    EncodeFailed,
    EncoderUnavailable,
    InvalidParams,
    QueueTimeout,
    ReelayError,
    WorkerFault,
    WorkerLost,
)

NOW = START_MS + 5_000
LATER = NOW + 60_000
STATS = {"size_bytes": 3, "duration_s": 1.0}
RESULT = {"outputs": {"video": {"size_bytes": 5}}, "stats": STATS, "result": {"found": 1}}
OPEN = [state for state in AttemptState if state not in attempts.ENDED]
ENDED = sorted(attempts.ENDED)
FINISHED = sorted(jobs.FINISHED)


def pair(state: AttemptState = AttemptState.INTENT, **changes: object) -> Pair:
    """A running job (queued where nothing has been claimed) and its newest attempt in `state`."""
    status = JobStatus.RUNNING if state in {AttemptState.CLAIMED, AttemptState.DONE} else JobStatus.QUEUED
    job = new_job(START_MS, status=status, tries=0 if state is AttemptState.INTENT else 1)
    attempt = new_attempt(job, START_MS, state)
    return replace(job, **{"attempt_id": attempt.id, **changes}), attempt


CHANGES: dict[str, Callable[[Job, Attempt], object]] = {
    "claim": lambda j, a: transitions.claim(j, a, CLAIM, NOW),
    "beat": lambda j, a: transitions.beat(j, a, CLAIM, 0.5, NOW),
    "held": lambda j, a: transitions.held(j, a, CLAIM, AttemptState.DONE),
    "accept": lambda j, a: transitions.accept(j, a, "r", NOW),
    "doubt": transitions.doubt,
    "not_yet": lambda j, a: transitions.not_yet(j, a, "busy"),
    "complete": lambda j, a: transitions.complete(j, a, RESULT, NOW),
    "fail": lambda j, a: transitions.fail(j, a, WorkerLost(), NOW),
    "turn_down": lambda j, a: transitions.turn_down(j, a, "no_capacity", "full", NOW, LATER),
    "supersede": lambda j, a: (j, transitions.supersede(a, NOW)),
}
S = AttemptState
# What each change makes of each state of an attempt: a new state, or the error. None: nothing changes.
EXPECTED: dict[str, dict[AttemptState, AttemptState | type[Exception]]] = {
    "claim": {
        **dict.fromkeys([S.INTENT, S.SUBMITTED, S.AMBIGUOUS, S.CLAIMED], S.CLAIMED),
        **dict.fromkeys([S.DONE, S.FAILED, S.SUPERSEDED], AttemptSuperseded),
    },
    "beat": {**dict.fromkeys(S, AttemptSuperseded), S.CLAIMED: S.CLAIMED},
    "held": {**dict.fromkeys(S, AttemptSuperseded), S.CLAIMED: S.CLAIMED, S.DONE: S.DONE},
    "accept": {
        **dict.fromkeys([S.INTENT, S.SUBMITTED, S.AMBIGUOUS], S.SUBMITTED),
        S.CLAIMED: S.CLAIMED,
        **dict.fromkeys(ENDED, IllegalChange),
    },
    "doubt": {**{state: state for state in S}, S.INTENT: S.AMBIGUOUS},
    "not_yet": {state: state for state in S},
    "complete": {
        S.INTENT: IllegalChange,
        **dict.fromkeys([S.SUBMITTED, S.AMBIGUOUS, S.CLAIMED], S.DONE),
        **dict.fromkeys(ENDED, IllegalChange),
    },
    "fail": {**dict.fromkeys(OPEN, S.FAILED), **dict.fromkeys(ENDED, IllegalChange)},
    "turn_down": {**dict.fromkeys(OPEN, S.FAILED), S.CLAIMED: S.CLAIMED, **dict.fromkeys(ENDED, IllegalChange)},
    "supersede": {**dict.fromkeys(OPEN, S.SUPERSEDED), **{state: state for state in ENDED}},
}
CASES = [(name, state, expected) for name, row in EXPECTED.items() for state, expected in row.items()]


def test_the_table_names_every_pair() -> None:
    assert set(EXPECTED) == set(CHANGES)
    assert all(set(row) == set(AttemptState) for row in EXPECTED.values())


@pytest.mark.parametrize(("name", "state", "expected"), CASES)
def test_each_change_in_each_state(name: str, state: AttemptState, expected: AttemptState | type[Exception]) -> None:
    job, attempt = pair(state)
    if isinstance(expected, AttemptState):
        answer = CHANGES[name](job, attempt)
        after = answer[1] if isinstance(answer, tuple) else attempt
        assert after.state is expected
    else:
        with pytest.raises(expected):
            CHANGES[name](job, attempt)


@pytest.mark.parametrize("status", FINISHED)
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("complete", IllegalChange),
        ("fail", IllegalChange),
        ("claim", AttemptSuperseded),
        ("beat", AttemptSuperseded),
        ("held", AttemptSuperseded),
    ],
)
def test_nothing_changes_an_attempt_of_a_finished_job(name: str, error: type[Exception], status: JobStatus) -> None:
    with pytest.raises(error):
        CHANGES[name](*pair(AttemptState.CLAIMED, status=status))


@pytest.mark.parametrize("name", ["claim", "beat", "held"])
def test_an_old_attempt_is_superseded(name: str) -> None:
    with pytest.raises(AttemptSuperseded):
        CHANGES[name](*pair(AttemptState.CLAIMED, attempt_id="att_newer"))


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_job_is_not_given_up(status: JobStatus) -> None:
    with pytest.raises(IllegalChange):
        transitions.give_up(pair(status=status)[0], QueueTimeout(), NOW)


def test_a_claim_starts_the_job_and_counts() -> None:
    job, attempt = transitions.claim(*pair(AttemptState.INTENT, waiting_for="busy", waits=4), CLAIM, NOW)
    assert (job.status, job.started_at, job.tries, job.waits, job.waiting_for) == (JobStatus.RUNNING, NOW, 1, 0, None)
    assert (attempt.claim_id, attempt.claimed_at, attempt.heard_at) == (CLAIM, NOW, NOW)


@pytest.mark.parametrize("state", [AttemptState.SUBMITTED, AttemptState.AMBIGUOUS])
def test_an_attempt_counts_once(state: AttemptState) -> None:
    job, _ = transitions.claim(*pair(state), CLAIM, NOW)
    assert job.tries == 1


def test_the_same_claim_again_changes_nothing() -> None:
    first = transitions.claim(*pair(AttemptState.SUBMITTED), CLAIM, NOW)
    assert transitions.claim(*first, CLAIM, LATER) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda j, a, claim: transitions.claim(j, a, claim, NOW),
        lambda j, a, claim: transitions.beat(j, a, claim, 0.5, NOW),
        lambda j, a, claim: transitions.held(j, a, claim, AttemptState.DONE),
    ],
)
def test_only_the_holder_of_the_claim_may_report(change: Callable[..., object]) -> None:
    with pytest.raises(AttemptSuperseded):
        change(*pair(AttemptState.CLAIMED), "claim-of-worker-2")


def test_progress_never_goes_back() -> None:
    job, attempt = transitions.beat(*pair(AttemptState.CLAIMED, progress=0.7), CLAIM, 0.2, NOW)
    assert job.progress == 0.7
    assert attempt.heard_at == NOW


def test_polled_progress_starts_the_job_and_never_goes_back() -> None:
    job, attempt = transitions.runs(*pair(AttemptState.SUBMITTED), 0.4, NOW)
    assert (job.status, job.started_at, job.progress) == (JobStatus.RUNNING, NOW, 0.4)
    assert transitions.runs(job, attempt, 0.6, LATER)[0].progress == 0.6
    assert transitions.runs(job, attempt, 0.1, LATER)[0].progress == 0.4
    assert transitions.runs(job, attempt, 0.6, LATER)[0].started_at == NOW


def test_a_job_that_has_not_begun_elsewhere_stays_queued_and_says_why() -> None:
    job, attempt = transitions.waits(*pair(AttemptState.SUBMITTED), "no GPU is free")
    assert (job.status, job.waiting_for) == (JobStatus.QUEUED, "no GPU is free")
    job, attempt = transitions.runs(job, attempt, 0.0, NOW)
    assert (job.status, job.waiting_for, attempt.running_at) == (JobStatus.RUNNING, None, NOW)
    assert transitions.runs(job, attempt, 0.1, LATER)[1].running_at == NOW
    assert transitions.waits(job, attempt, "late news")[0].waiting_for is None


@pytest.mark.parametrize("status", FINISHED)
def test_progress_of_a_finished_job_is_ignored(status: JobStatus) -> None:
    before = pair(AttemptState.SUBMITTED, status=status)
    assert transitions.runs(*before, 0.5, NOW) == before


def test_accept_keeps_a_claim_that_came_first() -> None:
    job, attempt = transitions.accept(*pair(AttemptState.CLAIMED), "r9", NOW)
    assert (attempt.state, attempt.claim_id, attempt.remote_id, job.tries) == (AttemptState.CLAIMED, CLAIM, "r9", 1)


def test_not_yet_does_not_count_and_may_be_sent_again() -> None:
    job, attempt = transitions.not_yet(*pair(AttemptState.INTENT), "busy")
    assert (job.tries, job.waits, job.waiting_for, attempt.sent_at) == (0, 1, "busy", None)


@pytest.mark.parametrize("state", [state for state in AttemptState if state is not AttemptState.INTENT])
def test_not_yet_undoes_no_newer_change(state: AttemptState) -> None:
    before = pair(state)
    assert transitions.not_yet(*before, "busy") == before


def test_turn_down_does_not_count_and_keeps_the_queue_time() -> None:
    job, attempt = transitions.turn_down(*pair(AttemptState.INTENT), "no_capacity", "full", NOW, LATER)
    assert (job.tries, job.waits, job.queued_at, job.next_at, job.status) == (0, 1, START_MS, LATER, JobStatus.QUEUED)
    assert (attempt.state, attempt.error_code, attempt.error_message) == (AttemptState.FAILED, "no_capacity", "full")


def test_complete_keeps_stats_result_and_the_outputs_of_its_attempt() -> None:
    job, attempt = transitions.complete(
        *pair(AttemptState.CLAIMED, lease_token="t", lease_expires_at=LATER), RESULT, NOW
    )
    assert (job.status, job.progress, job.finished_at, job.next_at) == (JobStatus.COMPLETED, 1.0, NOW, None)
    assert job.outputs == stored_video(attempt, 5)
    assert job.stats == {**STATS, "provider": "fake"} and job.result == {"found": 1}
    assert (job.lease_token, job.lease_expires_at) == (None, None)


@pytest.mark.parametrize(("tries", "pause"), [(1, 1_000), (2, 5_000)])
def test_a_workers_fault_is_tried_again_after_a_pause(tries: int, pause: int) -> None:
    job, attempt = transitions.fail(*pair(AttemptState.CLAIMED, tries=tries, progress=0.5), WorkerLost(), NOW)
    assert (job.status, job.progress, job.queued_at) == (JobStatus.QUEUED, 0.0, NOW)
    assert attempt.error_code == "worker_lost"
    fresh = pair(AttemptState.CLAIMED, tries=tries)
    pauses = {(transitions.fail(*fresh, WorkerLost(), NOW)[0].next_at or 0) - NOW for _ in range(50)}
    assert 0.8 * pause <= min(pauses) and max(pauses) <= 1.2 * pause
    assert len(pauses) > 1, "jobs that fail together must not come back together"


def test_a_retry_sits_out_its_pause_even_if_the_job_waited_before() -> None:
    job, _ = transitions.fail(*pair(AttemptState.AMBIGUOUS, waits=3), WorkerLost(), NOW)
    assert job.waits == 0  # what makes `wake_next_waiting` pass it by


def test_two_machines_without_an_encoder_use_up_no_try() -> None:
    job, attempt = pair(AttemptState.CLAIMED, tries=1)
    tries = []
    for _ in range(5):
        job, _ = transitions.fail(job, attempt, EncoderUnavailable(), NOW)
        tries.append((job.tries, job.encoder_refusals, job.finished))
        job = replace(job, tries=job.tries + 1) if not job.finished else job
        if job.finished:
            break
    assert tries == [(0, 1, False), (0, 2, False), (1, 2, False), (2, 2, False), (3, 2, True)]
    assert job.error_code == "encoder_unavailable"


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
def test_cancel_ends_the_job_and_asks_for_a_look(status: JobStatus) -> None:
    job = transitions.cancel(pair(AttemptState.CLAIMED, status=status, lease_token="t")[0], NOW)
    assert (job.status, job.finished_at, job.next_at, job.lease_token) == (JobStatus.CANCELLED, NOW, NOW, None)


def test_an_attempt_that_was_ended_otherwise_is_not_the_holders_any_more() -> None:
    """Its `completed` must not be taken for delivered."""
    with pytest.raises(AttemptSuperseded):
        transitions.held(*transitions.fail(*pair(AttemptState.CLAIMED), WorkerLost(), NOW), CLAIM, AttemptState.DONE)


def test_a_job_that_was_never_seen_running_has_a_start() -> None:
    assert transitions.complete(*pair(AttemptState.SUBMITTED), RESULT, NOW)[0].started_at == NOW


def test_a_retried_attempt_may_repeat_its_end_until_a_newer_one_exists() -> None:
    job, attempt = transitions.fail(*pair(AttemptState.CLAIMED), WorkerLost(), NOW)
    assert transitions.held(job, attempt, CLAIM, AttemptState.FAILED) is False
    with pytest.raises(AttemptSuperseded):
        transitions.held(replace(job, attempt_id="att_newer"), attempt, CLAIM, AttemptState.FAILED)


ERRORS = st.sampled_from([WorkerLost(), EncoderUnavailable(), InvalidParams(), WorkerFault("x"), Cancelled()])
CLAIMS = st.sampled_from([CLAIM, "claim-of-worker-2"])


class OneJob(RuleBasedStateMachine):
    """Whatever comes in whatever order: as the dispatcher and the events do it, refusals included."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START_MS
        self.job = new_job(self.now)
        self.attempts: list[Attempt] = []
        self.end: Job | None = None

    def apply(self, change: Callable[[Job, Attempt], Pair], index: int = -1) -> None:
        self.now += 1
        attempt = self.attempts[index]
        try:
            self.job, self.attempts[index] = change(self.job, attempt)
        except (ReelayError, IllegalChange):
            pass

    @precondition(lambda self: not self.job.finished and all(a.ended for a in self.attempts))
    @rule()
    def begin(self) -> None:
        self.now += 1
        self.attempts.append(new_attempt(self.job, self.now))
        self.job = replace(self.job, attempt_id=self.attempts[-1].id)

    @precondition(lambda self: self.attempts and not self.job.finished)
    @rule(data=st.data(), name=st.sampled_from(["accept", "doubt", "not_yet", "turn_down"]))
    def provider_answers(self, data: st.DataObject, name: str) -> None:
        if name == "turn_down" and self.attempts[-1].state is not AttemptState.INTENT:
            return
        self.apply(CHANGES[name])

    @precondition(lambda self: self.attempts)
    @rule(claim=CLAIMS, old=st.integers(0, 20))
    def worker_claims(self, claim: str, old: int) -> None:
        self.apply(lambda j, a: transitions.claim(j, a, claim, self.now), old % len(self.attempts))

    @precondition(lambda self: self.attempts)
    @rule(claim=CLAIMS, old=st.integers(0, 20), progress=st.floats(0, 1))
    def worker_beats(self, claim: str, old: int, progress: float) -> None:
        before = self.job.progress
        self.apply(lambda j, a: transitions.beat(j, a, claim, progress, self.now), old % len(self.attempts))
        assert self.job.progress >= before

    @precondition(lambda self: self.attempts)
    @rule(claim=CLAIMS, old=st.integers(0, 20), error=ERRORS, well=st.booleans())
    def worker_ends(self, claim: str, old: int, error: WorkerFault, well: bool) -> None:
        def change(job: Job, attempt: Attempt) -> Pair:
            if not transitions.held(job, attempt, claim, AttemptState.DONE if well else AttemptState.FAILED):
                return job, attempt
            return (
                transitions.complete(job, attempt, RESULT, self.now)
                if well
                else transitions.fail(job, attempt, error, self.now)
            )

        self.apply(change, old % len(self.attempts))

    @precondition(lambda self: self.attempts and not self.job.finished and not self.attempts[-1].ended)
    @rule(error=ERRORS, well=st.booleans())
    def poll_ends(self, error: WorkerFault, well: bool) -> None:
        if well:
            self.apply(lambda j, a: transitions.complete(j, a, RESULT, self.now))
        else:
            self.apply(lambda j, a: transitions.fail(j, a, error, self.now))

    @rule()
    def client_cancels(self) -> None:
        try:
            self.job = transitions.cancel(self.job, self.now)
        except JobFinished:
            pass

    @precondition(lambda self: self.job.status is JobStatus.CANCELLED and self.attempts)
    @rule()
    def dispatcher_cleans_up(self) -> None:
        self.attempts[-1] = transitions.supersede(self.attempts[-1], self.now)

    @invariant()
    def a_finished_job_stays_as_it_is(self) -> None:
        if self.end is not None:
            assert self.job == self.end
        self.end = self.job if self.job.finished else None

    @invariant()
    def at_most_one_attempt_lives(self) -> None:
        assert sum(not attempt.ended for attempt in self.attempts) <= 1

    @invariant()
    def never_more_tries_than_three(self) -> None:
        assert 0 <= self.job.tries <= MAX_TRIES
        assert self.job.encoder_refusals <= MAX_ENCODER_REFUSALS

    @invariant()
    def what_is_not_finished_is_looked_at_again(self) -> None:
        assert self.job.finished or self.job.next_at is not None

    @invariant()
    def a_completed_job_has_its_output(self) -> None:
        assert (self.job.status is JobStatus.COMPLETED) == (self.job.outputs["video"].key is not None)


TestOneJob = OneJob.TestCase
TestOneJob.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def test_a_cost_is_that_of_the_time_from_the_claim_and_adds_up() -> None:
    job, attempt = transitions.fail(*pair(AttemptState.CLAIMED, tries=1), EncodeFailed(), NOW + 10_000)
    claimed_at = attempt.claimed_at
    assert claimed_at is not None
    job, attempt = transitions.charge(job, attempt, 310_000)
    assert attempt.cost_nano == job.cost_nano == 310_000 * (NOW + 10_000 - claimed_at) // 1000
    again, second = transitions.charge(job, attempt, 310_000, execution_ms=2_500)
    assert second.cost_nano == 775_000
    assert again.cost_nano == (job.cost_nano or 0) + 775_000


def test_an_attempt_that_never_ran_costs_nothing() -> None:
    job, attempt = transitions.fail(*pair(AttemptState.SUBMITTED, tries=1), EncodeFailed(), LATER)
    job, attempt = transitions.charge(job, attempt, 310_000)
    assert (attempt.cost_nano, job.cost_nano) == (0, 0)
