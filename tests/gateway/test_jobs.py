"""The table of legal changes, tried in every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import jobs
from gateway.jobs import MAX_TRIES, Attempt, IllegalChange, Job, Pair, State, Status
from tests.gateway.conftest import CLAIM, START_MS, new_attempt, new_job
from wire.errors import (
    AttemptSuperseded,
    Cancelled,
    EncodeFailed,
    InvalidParams,
    JobFinished,
    QueueTimeout,
    ReelayError,
    WorkerFault,
    WorkerLost,
)

NOW = START_MS + 5_000
LATER = NOW + 60_000
STATS = {"size_bytes": 3, "duration_s": 1.0}
OPEN = [state for state in State if state not in jobs.ENDED]
ENDED = sorted(jobs.ENDED)
FINISHED = sorted(jobs.FINISHED)


def pair(state: State = State.INTENT, **changes: object) -> Pair:
    """A running job (queued where nothing has been claimed) and its newest attempt in `state`."""
    status = Status.RUNNING if state in {State.CLAIMED, State.DONE} else Status.QUEUED
    job = new_job(START_MS, status=status, tries=0 if state is State.INTENT else 1)
    attempt = new_attempt(job, START_MS, state)
    return replace(job, **{"attempt_id": attempt.id, **changes}), attempt


CHANGES: dict[str, Callable[[Job, Attempt], object]] = {
    "claim": lambda j, a: jobs.claim(j, a, CLAIM, NOW),
    "beat": lambda j, a: jobs.beat(j, a, CLAIM, 0.5, NOW),
    "held": lambda j, a: jobs.held(j, a, CLAIM, State.DONE),
    "accept": lambda j, a: jobs.accept(j, a, "r", NOW),
    "doubt": jobs.doubt,
    "not_yet": lambda j, a: jobs.not_yet(j, a, "busy"),
    "complete": lambda j, a: jobs.complete(j, a, STATS, NOW),
    "fail": lambda j, a: jobs.fail(j, a, WorkerLost(), NOW),
    "turn_down": lambda j, a: jobs.turn_down(j, a, "no_capacity", "full", NOW, LATER),
    "supersede": lambda j, a: (j, jobs.supersede(a, NOW)),
}
S = State
# What each change makes of each state of an attempt: a new state, or the error. None: nothing changes.
EXPECTED: dict[str, dict[State, State | type[Exception]]] = {
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
    assert all(set(row) == set(State) for row in EXPECTED.values())


@pytest.mark.parametrize(("name", "state", "expected"), CASES)
def test_each_change_in_each_state(name: str, state: State, expected: State | type[Exception]) -> None:
    job, attempt = pair(state)
    if isinstance(expected, State):
        answer = CHANGES[name](job, attempt)
        after = answer[1] if isinstance(answer, tuple) else attempt
        assert after.state is expected
    else:
        with pytest.raises(expected):
            CHANGES[name](job, attempt)


@pytest.mark.parametrize("name", ["complete", "fail"])
@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_job_does_not_end_again(name: str, status: Status) -> None:
    job, attempt = pair(State.CLAIMED, status=status)
    with pytest.raises(IllegalChange):
        CHANGES[name](job, attempt)


@pytest.mark.parametrize("name", ["claim", "beat", "held"])
@pytest.mark.parametrize("status", FINISHED)
def test_workers_of_a_finished_job_are_told_to_stop(name: str, status: Status) -> None:
    with pytest.raises(AttemptSuperseded):
        CHANGES[name](*pair(State.CLAIMED, status=status))


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_job_is_not_given_up(status: Status) -> None:
    with pytest.raises(IllegalChange):
        jobs.give_up(pair(status=status)[0], QueueTimeout(), NOW)


@pytest.mark.parametrize("name", ["claim", "beat", "held"])
def test_an_old_attempt_is_superseded(name: str) -> None:
    with pytest.raises(AttemptSuperseded):
        CHANGES[name](*pair(State.CLAIMED, attempt_id="att_newer"))


def test_a_claim_starts_the_job_and_counts() -> None:
    job, attempt = jobs.claim(*pair(State.INTENT, waiting_for="busy", waits=4), CLAIM, NOW)
    assert (job.status, job.started_at, job.tries, job.waits, job.waiting_for) == (Status.RUNNING, NOW, 1, 0, None)
    assert (attempt.claim_id, attempt.claimed_at, attempt.heard_at) == (CLAIM, NOW, NOW)


@pytest.mark.parametrize("state", [State.SUBMITTED, State.AMBIGUOUS])
def test_an_attempt_counts_once(state: State) -> None:
    job, _ = jobs.claim(*pair(state), CLAIM, NOW)
    assert job.tries == 1


def test_the_same_claim_again_changes_nothing() -> None:
    first = jobs.claim(*pair(State.SUBMITTED), CLAIM, NOW)
    assert jobs.claim(*first, CLAIM, LATER) == first


def test_another_claim_is_superseded() -> None:
    with pytest.raises(AttemptSuperseded):
        jobs.claim(*pair(State.CLAIMED), "claim-of-worker-2", NOW)


@pytest.mark.parametrize("change", [jobs.beat, lambda j, a, c, p, n: jobs.held(j, a, c, State.DONE)])
def test_only_the_holder_of_the_claim_may_report(change: Callable[..., object]) -> None:
    with pytest.raises(AttemptSuperseded):
        change(*pair(State.CLAIMED), "claim-of-worker-2", 0.5, NOW)


def test_progress_never_goes_back() -> None:
    job, attempt = jobs.beat(*pair(State.CLAIMED, progress=0.7), CLAIM, 0.2, NOW)
    assert job.progress == 0.7
    assert attempt.heard_at == NOW


def test_polled_progress_starts_the_job_and_never_goes_back() -> None:
    job, attempt = jobs.runs(*pair(State.SUBMITTED), 0.4, NOW)
    assert (job.status, job.started_at, job.progress) == (Status.RUNNING, NOW, 0.4)
    assert jobs.runs(job, attempt, 0.6, LATER)[0].progress == 0.6
    assert jobs.runs(job, attempt, 0.1, LATER)[0].progress == 0.4
    assert jobs.runs(job, attempt, 0.6, LATER)[0].started_at == NOW


def test_a_job_that_has_not_begun_elsewhere_stays_queued_and_says_why() -> None:
    job, attempt = jobs.waits(*pair(State.SUBMITTED), "no GPU is free")
    assert (job.status, job.waiting_for) == (Status.QUEUED, "no GPU is free")
    job, attempt = jobs.runs(job, attempt, 0.0, NOW)
    assert (job.status, job.waiting_for, attempt.running_at) == (Status.RUNNING, None, NOW)
    assert jobs.runs(job, attempt, 0.1, LATER)[1].running_at == NOW
    assert jobs.waits(job, attempt, "late news")[0].waiting_for is None


@pytest.mark.parametrize("status", FINISHED)
def test_progress_of_a_finished_job_is_ignored(status: Status) -> None:
    before = pair(State.SUBMITTED, status=status)
    assert jobs.runs(*before, 0.5, NOW) == before


def test_accept_keeps_a_claim_that_came_first() -> None:
    job, attempt = jobs.accept(*pair(State.CLAIMED), "r9", NOW)
    assert (attempt.state, attempt.claim_id, attempt.remote_id, job.tries) == (State.CLAIMED, CLAIM, "r9", 1)


def test_not_yet_does_not_count_and_may_be_sent_again() -> None:
    job, attempt = jobs.not_yet(*pair(State.INTENT), "busy")
    assert (job.tries, job.waits, job.waiting_for, attempt.sent_at) == (0, 1, "busy", None)


@pytest.mark.parametrize("state", [state for state in State if state is not State.INTENT])
def test_not_yet_does_not_undo_what_has_happened_since(state: State) -> None:
    before = pair(state)
    assert jobs.not_yet(*before, "busy") == before


def test_turn_down_does_not_count_and_keeps_the_queue_time() -> None:
    job, attempt = jobs.turn_down(*pair(State.INTENT), "no_capacity", "full", NOW, LATER)
    assert (job.tries, job.waits, job.queued_at, job.next_at, job.status) == (0, 1, START_MS, LATER, Status.QUEUED)
    assert (attempt.state, attempt.error_code, attempt.error_message) == (State.FAILED, "no_capacity", "full")


def test_complete_keeps_stats_and_the_key_of_its_attempt() -> None:
    job, attempt = jobs.complete(*pair(State.CLAIMED, lease_token="t", lease_expires_at=LATER), STATS, NOW)
    assert (job.status, job.progress, job.finished_at, job.next_at) == (Status.COMPLETED, 1.0, NOW, None)
    assert job.output_key == attempt.output_key == f"outputs/{job.id}/{attempt.id}.mp4"
    assert job.stats == {**STATS, "provider": "fake"}
    assert (job.lease_token, job.lease_expires_at) == (None, None)


@pytest.mark.parametrize(("tries", "pause"), [(1, 1_000), (2, 5_000)])
def test_a_workers_fault_is_tried_again_after_a_pause(tries: int, pause: int) -> None:
    job, attempt = jobs.fail(*pair(State.CLAIMED, tries=tries, progress=0.5), WorkerLost(), NOW)
    assert (job.status, job.progress, job.queued_at) == (Status.QUEUED, 0.0, NOW)
    assert attempt.error_code == "worker_lost"
    fresh = pair(State.CLAIMED, tries=tries)
    pauses = {(jobs.fail(*fresh, WorkerLost(), NOW)[0].next_at or 0) - NOW for _ in range(50)}
    assert 0.8 * pause <= min(pauses) and max(pauses) <= 1.2 * pause
    assert len(pauses) > 1, "jobs that fail together must not come back together"


def test_a_retry_sits_out_its_pause_even_if_the_job_waited_before() -> None:
    job, _ = jobs.fail(*pair(State.AMBIGUOUS, waits=3), WorkerLost(), NOW)
    assert job.waits == 0  # what makes `wake_oldest_waiting` pass it by


def test_the_third_failure_is_the_last() -> None:
    job, _ = jobs.fail(*pair(State.CLAIMED, tries=MAX_TRIES), WorkerLost(), NOW)
    assert (job.status, job.error_code, job.next_at) == (Status.FAILED, "worker_lost", None)


@pytest.mark.parametrize("state", OPEN)
def test_the_jobs_own_fault_is_never_tried_again(state: State) -> None:
    job, _ = jobs.fail(*pair(state), InvalidParams("bad"), NOW)
    assert (job.status, job.error_code, job.error_message, job.next_at) == (
        Status.FAILED,
        "invalid_params",
        "bad",
        None,
    )


def test_a_job_that_is_tried_again_shows_no_error() -> None:
    job, _ = jobs.fail(*pair(State.CLAIMED), WorkerLost(), NOW)
    assert (job.error_code, job.error_message) == (None, None)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING])
def test_cancel_ends_the_job_and_asks_for_a_look(status: Status) -> None:
    job = jobs.cancel(pair(State.CLAIMED, status=status, lease_token="t")[0], NOW)
    assert (job.status, job.finished_at, job.next_at, job.lease_token) == (Status.CANCELLED, NOW, NOW, None)


def test_cancel_again_changes_nothing() -> None:
    job = jobs.cancel(pair()[0], NOW)
    assert jobs.cancel(job, LATER) == job


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_cancel_of_a_job_that_has_ended_is_refused(status: Status) -> None:
    with pytest.raises(JobFinished, match=str(status)):
        jobs.cancel(pair(status=status)[0], NOW)


def test_a_holder_may_repeat_its_end() -> None:
    done = jobs.complete(*pair(State.CLAIMED), STATS, NOW)
    assert jobs.held(*done, CLAIM, State.DONE) is False


def test_an_attempt_that_was_ended_otherwise_is_not_the_holders_any_more() -> None:
    """Its `completed` must not be taken for delivered."""
    with pytest.raises(AttemptSuperseded):
        jobs.held(*jobs.fail(*pair(State.CLAIMED), WorkerLost(), NOW), CLAIM, State.DONE)


def test_a_job_that_nobody_saw_running_has_a_start_all_the_same() -> None:
    assert jobs.complete(*pair(State.SUBMITTED), STATS, NOW)[0].started_at == NOW


def test_a_submitted_attempt_that_never_began_does_not_count() -> None:
    job, _ = jobs.turn_down(*pair(State.SUBMITTED), "no_capacity", "full", NOW, LATER)
    assert (job.tries, job.status) == (0, Status.QUEUED)


def test_a_retried_attempt_may_repeat_its_end_until_a_newer_one_exists() -> None:
    job, attempt = jobs.fail(*pair(State.CLAIMED), WorkerLost(), NOW)
    assert jobs.held(job, attempt, CLAIM, State.FAILED) is False
    with pytest.raises(AttemptSuperseded):
        jobs.held(replace(job, attempt_id="att_newer"), attempt, CLAIM, State.FAILED)


ERRORS = st.sampled_from([WorkerLost(), InvalidParams(), WorkerFault("x"), Cancelled()])
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
        if name == "turn_down" and self.attempts[-1].state is not State.INTENT:
            return
        self.apply(CHANGES[name])

    @precondition(lambda self: self.attempts)
    @rule(claim=CLAIMS, old=st.integers(0, 20))
    def worker_claims(self, claim: str, old: int) -> None:
        self.apply(lambda j, a: jobs.claim(j, a, claim, self.now), old % len(self.attempts))

    @precondition(lambda self: self.attempts)
    @rule(claim=CLAIMS, old=st.integers(0, 20), progress=st.floats(0, 1))
    def worker_beats(self, claim: str, old: int, progress: float) -> None:
        before = self.job.progress
        self.apply(lambda j, a: jobs.beat(j, a, claim, progress, self.now), old % len(self.attempts))
        assert self.job.progress >= before

    @precondition(lambda self: self.attempts)
    @rule(claim=CLAIMS, old=st.integers(0, 20), error=ERRORS, well=st.booleans())
    def worker_ends(self, claim: str, old: int, error: WorkerFault, well: bool) -> None:
        def change(job: Job, attempt: Attempt) -> Pair:
            if not jobs.held(job, attempt, claim, State.DONE if well else State.FAILED):
                return job, attempt
            return jobs.complete(job, attempt, STATS, self.now) if well else jobs.fail(job, attempt, error, self.now)

        self.apply(change, old % len(self.attempts))

    @precondition(lambda self: self.attempts and not self.job.finished and not self.attempts[-1].ended)
    @rule(error=ERRORS, well=st.booleans())
    def poll_ends(self, error: WorkerFault, well: bool) -> None:
        if well:
            self.apply(lambda j, a: jobs.complete(j, a, STATS, self.now))
        else:
            self.apply(lambda j, a: jobs.fail(j, a, error, self.now))

    @rule()
    def client_cancels(self) -> None:
        try:
            self.job = jobs.cancel(self.job, self.now)
        except JobFinished:
            pass

    @precondition(lambda self: self.job.status is Status.CANCELLED and self.attempts)
    @rule()
    def dispatcher_cleans_up(self) -> None:
        self.attempts[-1] = jobs.supersede(self.attempts[-1], self.now)

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
        assert self.job.tries <= MAX_TRIES

    @invariant()
    def what_is_not_finished_is_looked_at_again(self) -> None:
        assert self.job.finished or self.job.next_at is not None

    @invariant()
    def a_completed_job_has_its_output(self) -> None:
        assert (self.job.status is Status.COMPLETED) == (self.job.output_key is not None)


TestOneJob = OneJob.TestCase
TestOneJob.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def test_a_cost_is_that_of_the_time_from_the_claim_and_adds_up() -> None:
    job, attempt = jobs.fail(*pair(State.CLAIMED, tries=1), EncodeFailed(), NOW + 10_000)
    claimed_at = attempt.claimed_at
    assert claimed_at is not None
    job, attempt = jobs.charge(job, attempt, 310_000)
    assert attempt.cost_nano == job.cost_nano == 310_000 * (NOW + 10_000 - claimed_at) // 1000
    again, second = jobs.charge(job, attempt, 310_000, execution_ms=2_500)
    assert second.cost_nano == 775_000
    assert again.cost_nano == (job.cost_nano or 0) + 775_000


def test_an_attempt_that_never_ran_costs_nothing() -> None:
    job, attempt = jobs.fail(*pair(State.SUBMITTED, tries=1), EncodeFailed(), LATER)
    job, attempt = jobs.charge(job, attempt, 310_000)
    assert (attempt.cost_nano, job.cost_nano) == (0, 0)
