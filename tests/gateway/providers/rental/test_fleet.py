"""The life of a rental, and every way in which it goes wrong: nothing stays, and nothing of others is touched."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.db import rental_store
from gateway.db.rental_store import orphans
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.rentals import Stage
from gateway.providers.base import Accepted, NoCapacity, NotYet, Phase, Unavailable
from gateway.providers.rental import labels
from gateway.providers.rental.fleet import LEASE_MS
from gateway.providers.rental.reconciliation import MAX_KILLS
from tests.emulators.vast import offer
from tests.gateway.conftest import on_every_database
from tests.gateway.providers.conftest import job_input
from tests.gateway.providers.vast_scene import Scene
from tests.servers import eventually
from wire.errors import EncoderUnavailable

RENTAL = "0195a3c2-7e11-7cc2-a5b2-3d1e0f6a9b10"


def puts(scene: Scene) -> int:
    return scene.vast.calls["create"]


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not answer at all is not waited for in life's time."""
    for module in ("http", "worker_client"):
        monkeypatch.setattr(f"gateway.providers.{module}.CONNECT_TIMEOUT_S", 0.1)


def nothing_is_left(scene: Scene) -> None:
    """Five minutes after the last job nothing is paid for, and nothing of others was touched."""
    scene.go_on(300 + 300, every_s=20)
    assert scene.vast.alive() == []
    assert scene.rows.living() == []
    assert scene.vast.touched_strangers() == []


# ---- all is well


def test_without_jobs_nothing_is_rented(scene: Scene) -> None:
    scene.go_on(130, every_s=5)
    assert puts(scene) == 0
    assert scene.vast.calls["list"] == 3  # at the start, then every minute


def test_a_job_gets_a_machine_which_goes_when_nobody_needs_it(scene: Scene) -> None:
    (attempt,) = scene.wants()
    assert scene.submit(attempt) == NotYet("a machine will be rented", 2.0)
    scene.round()
    (rental,) = scene.vast.alive()
    assert (rental.offer["gpu_name"], rental.offer["dph_total"]) == ("RTX 3060", 0.08)
    assert rental.label == scene.rows.living()[0].label
    assert (rental.image, rental.runtype) == ("acme/reelay-worker:1.0", "args")
    scene.go_on(15)
    assert scene.submit(attempt) == NotYet("a machine is booting, 15 s so far", 2.0, coming=True)
    scene.go_on(10)
    assert scene.stages() == [Stage.IDLE]
    assert isinstance(scene.submit(attempt), Accepted)
    assert scene.stages() == [Stage.BUSY]
    attempt = scene.fresh(attempt)
    assert attempt.remote_id == f"{scene.rows.living()[0].id}:{attempt.id}"
    scene.vast.advance(2)
    assert scene.provider.poll(attempt).phase is Phase.COMPLETED
    scene.over(attempt)
    scene.go_on(295, every_s=5)
    assert scene.stages() == [Stage.IDLE]
    scene.go_on(15)
    assert scene.stages() == []
    assert scene.vast.alive() == []
    assert [i.code for i in scene.all()] == ["idle"]
    assert scene.vast.unfit == []


def test_as_many_machines_as_jobs_and_no_more_than_allowed(scene: Scene) -> None:
    scene.wants(2)
    scene.go_on(30)
    assert len(scene.vast.alive()) == 2
    scene.wants(20)
    scene.go_on(60)
    assert len(scene.vast.alive()) == scene.own.max_instances == puts(scene)


def test_two_jobs_at_once_on_one_machine_when_configured(scene: Scene) -> None:
    scene.change(concurrency=2)
    attempts = scene.wants(2)
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert all(isinstance(scene.submit(attempt), Accepted) for attempt in attempts)
    (third,) = scene.wants()
    assert scene.submit(third) == NotYet("all rented machines are busy", 2.0)
    assert puts(scene) == 1


def test_a_warm_machine_takes_the_next_job(scene: Scene) -> None:
    ready = scene.ready()
    for _ in range(3):
        (attempt,) = scene.wants()
        assert isinstance(scene.submit(attempt), Accepted)
        assert scene.fresh(attempt).remote_id == f"{ready.id}:{attempt.id}"
        scene.go_on(60)
        scene.over(attempt)
    assert puts(scene) == 1


@on_every_database
def test_a_machine_has_one_job_at_a_time_whoever_asks(scene: Scene) -> None:
    scene.ready()
    attempts = scene.wants(8)
    providers = [scene.provider, scene.another()]
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(scene.submit(attempts[n], providers[n % 2])))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(answer, Accepted) for answer in answers) == 1
    assert sum(scene.fresh(attempt).remote_id is not None for attempt in attempts) == 1


def test_a_moved_worker_is_found_before_the_next_job(scene: Scene) -> None:
    scene.ready()
    scene.vast.advance(20)
    (rental,) = scene.vast.alive()
    scene.vast.strike(rental.id, "moved")
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)


@pytest.mark.parametrize("end", ["dies", "vanishes", "stopped"])
def test_a_job_whose_worker_is_gone_is_told_so(scene: Scene, end: str) -> None:
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
    scene.vast.strike(scene.vast.alive()[0].id, end)
    scene.go_on(10)
    assert scene.provider.poll(scene.fresh(attempt)).phase is Phase.GONE
    scene.provider.cancel(scene.fresh(attempt))
    scene.over(attempt)
    nothing_is_left(scene)
    assert rental_store.Rentals(scene.store, "vast").avoided(scene.clock.now_ms())


def test_an_attempt_that_never_got_a_machine_goes_elsewhere(scene: Scene) -> None:
    (attempt,) = scene.wants()
    with pytest.raises(NoCapacity):
        scene.provider.poll(replace(attempt, state=AttemptState.AMBIGUOUS))


def test_an_attempt_in_other_hands_is_not_sent(scene: Scene) -> None:
    scene.ready()
    (attempt,) = scene.wants()
    scene._save(attempt, state=AttemptState.AMBIGUOUS)
    assert isinstance(scene.submit(attempt), NotYet)
    assert scene.vast.alive()[0].jobs == []


# ---- what may go wrong when a machine is rented


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "more", "behind"),
    [
        ("gone", {"status": 410}, 3),
        ("gone", {"status": 404}, 0),
        ("gone", {"status": 400}, 0),
        ("lost_request", {}, 3),
        ("lost_reply", {}, 0),
        ("lost_reply", {}, 3),
        ("error_after", {"status": 500}, 3),
        ("contract_in_error", {"status": 500}, 3),
        ("late_effect", {"status": 500, "seconds": 30}, 3),
        ("late_effect", {"status": 500, "seconds": 400}, 3),
        ("refused", {}, 0),
        ("rate_limited", {}, 0),
        ("status", {"status": 503}, 0),
        ("auth_error", {}, 0),
        ("garbage", {"body": "<html>"}, 3),
    ],
)
def test_a_creation_that_goes_wrong(scene: Scene, fault: str, more: dict[str, Any], behind: int) -> None:
    scene.vast.configure(list_behind=behind)
    scene.vast.inject(fault, "create", times=1, **more)
    (attempt,) = scene.wants()
    scene.round()
    scene.go_on(55)
    if fault not in {"gone", "contract_in_error"}:
        assert puts(scene) == 1, "there may be a machine"
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert isinstance(scene.submit(attempt), Accepted)
    scene.over(attempt)
    nothing_is_left(scene)
    assert puts(scene) <= 2
    assert sum(i.paid_s for i in scene.vast.instances) < 1500


def test_a_creation_that_takes_effect_late_is_found_though_the_listing_lags(scene: Scene) -> None:
    scene.vast.configure(list_behind=8)  # 40 s here
    scene.vast.inject("late_effect", "create", times=1, status=500, seconds=28)
    scene.wants()
    scene.round()
    scene.go_on(60)
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert puts(scene) == 1


@pytest.mark.parametrize("label", ["somebody's", f"reelay:other:{RENTAL}:1700000000"])
def test_an_id_in_an_error_may_be_a_strangers(scene: Scene, label: str) -> None:
    scene.vast.stranger(label)
    scene.vast.inject("stranger_in_error", "create", times=1, status=500)
    (attempt,) = scene.wants()
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert puts(scene) == 2
    scene.over(attempt)
    nothing_is_left(scene)


@pytest.mark.parametrize(
    ("stage", "listed"), [(Stage.BOOTING, True), (Stage.DESTROYING, True), (Stage.DESTROYING, False)]
)
def test_an_id_that_turns_out_to_be_a_strangers_is_forgotten(scene: Scene, stage: Stage, listed: bool) -> None:
    scene.wants()
    scene.round()
    (rental,) = scene.rows.living()
    scene.vast.account.end(scene.vast.alive()[0], "host")
    theirs = scene.vast.stranger("somebody's")
    with scene.store.transaction() as tx:
        rental_store.save(tx, replace(rental, stage=stage, remote_id=theirs))
    if not listed:
        scene.vast.inject("status", "list", times=1, status=500)
    scene.round()
    forgotten = scene.rows.get(rental.id)
    assert forgotten is not None
    assert (forgotten.remote_id, forgotten.code) == (None, "not_ours")
    assert forgotten.stage is (Stage.AMBIGUOUS if stage is Stage.BOOTING else Stage.GONE)
    assert scene.vast.touched_strangers() == []


def test_an_offer_that_is_gone_makes_room_for_the_next_and_five_are_enough(scene: Scene) -> None:
    scene.vast.inject("gone", "create", times=50, status=410)
    (attempt,) = scene.wants()
    scene.go_on(120)
    assert puts(scene) == 5
    assert len({i.offer_id for i in scene.all()}) == 5
    with pytest.raises(NoCapacity, match="did not come up"):
        scene.submit(attempt)
    scene.vast.faults.clear()
    scene.go_on(600, every_s=10)
    assert Stage.IDLE in scene.stages()


def test_an_account_that_cannot_pay_is_unavailable(scene: Scene) -> None:
    scene.vast.inject("insufficient_credit", "create", times=1)
    first, second = scene.wants(2)
    scene.go_on(80)
    assert puts(scene) == 1
    with pytest.raises(Unavailable, match="cannot pay"):
        scene.submit(second)
    scene.over(first, second)
    nothing_is_left(scene)


@pytest.mark.parametrize(
    ("changes", "told", "kind"),
    [
        ({"min_credit": 26.0}, "has 25.00 dollars left", Unavailable),
        ({"max_price": 0.01}, "no machine that fits", NoCapacity),
        ({"min_vram_gb": 90}, "no machine that fits", NoCapacity),
    ],
)
def test_what_is_not_rented_is_told(scene: Scene, changes: dict[str, Any], told: str, kind: type[Exception]) -> None:
    scene.change(**changes)
    (attempt,) = scene.wants()
    scene.round()
    with pytest.raises(kind, match=told):
        scene.submit(attempt)
    scene.over(attempt)
    scene.go_on(70, every_s=10)
    (other,) = scene.wants()
    assert scene.submit(other) == NotYet("a machine will be rented", 2.0), "whoever comes later makes us look again"
    assert puts(scene) == 0


def test_jobs_wait_for_the_place_of_a_machine_that_is_going_and_go_elsewhere_if_it_stays(scene: Scene) -> None:
    scene.change(max_instances=1)
    scene.ready()
    never = scene.vast.inject("ignored", "destroy", times=1000)
    scene.until(lambda: scene.stages() == [Stage.DESTROYING])
    (attempt,) = scene.wants()
    held = "every place is held by a machine that is being destroyed"
    assert scene.submit(attempt) == NotYet(held, 2.0)
    scene.go_on(40)
    with pytest.raises(NoCapacity, match=held):
        scene.submit(attempt)
    assert puts(scene) == 1
    scene.vast.faults.clear()
    scene.go_on(10)
    assert never.hits > 1
    assert isinstance(scene.submit(attempt), NotYet), "there is a place again"
    assert puts(scene) == 2


def test_without_any_instance_allowed_all_machines_go(scene: Scene) -> None:
    scene.ready()
    scene.change(max_instances=0)
    (attempt,) = scene.wants()
    with pytest.raises(NoCapacity, match="VAST_MAX_INSTANCES"):
        scene.submit(attempt)
    nothing_is_left(scene)
    assert puts(scene) == 1


def test_a_listing_does_not_clear_what_speaks_against_renting(scene: Scene) -> None:
    scene.change(min_credit=26.0)
    (attempt,) = scene.wants()
    scene.round()
    scene.change(max_instances=0)  # nothing more is asked for or noted
    scene.go_on(5)
    scene.change(max_instances=3)
    with pytest.raises(Unavailable, match="dollars left"):
        scene.submit(attempt)


def test_an_offer_that_was_never_asked_for_is_taken_next(scene: Scene) -> None:
    scene.wants()
    scene.provider._cloud.await_create = lambda: (_ for _ in ()).throw(Unavailable("not now"))  # type: ignore[method-assign]
    scene.round()
    scene.round(scene.another())
    first, second = scene.all()
    assert first.offer_id == second.offer_id


def test_the_days_budget_ends_renting_and_idle_machines(scene: Scene) -> None:
    scene.change(daily_budget=0.01)  # 450 s of the cheapest
    (attempt,) = scene.wants()
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert isinstance(scene.submit(attempt), Accepted)
    scene.go_on(600, every_s=20)
    assert scene.stages() == [Stage.BUSY], "work that has begun is not broken off"
    scene.over(attempt)
    (other,) = scene.wants()
    scene.go_on(20)
    assert [i.code for i in scene.all()] == ["budget"]
    with pytest.raises(NoCapacity, match="budget"):
        scene.submit(other)
    assert puts(scene) == 1


def test_the_days_budget_ends_a_machine_with_steady_work(scene: Scene) -> None:
    scene.change(daily_budget=0.01)
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
    for _ in range(20):
        scene.go_on(30, every_s=15)
        (following,) = scene.wants()
        scene.over(attempt)
        try:
            assert isinstance(scene.submit(following), Accepted)
        except NoCapacity as error:
            assert "budget" in str(error)
            break
        attempt = following
    assert 0.01 <= scene.vast.bill()["dollars"] < 0.012
    scene.go_on(20)
    assert [i.code for i in scene.all()] == ["budget"]
    assert scene.vast.alive() == []


def test_an_attempt_that_was_bound_before_the_budget_was_spent_is_sent_again(scene: Scene) -> None:
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.provider.submit(attempt, job_input(attempt)), Accepted)  # and the gateway is killed
    assert isinstance(scene.submit(attempt, scene.another(daily_budget=0.0)), Accepted)


# ---- what may go wrong with a machine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "more", "within_s"),
    [
        ("never_runs", {}, 700),
        ("pull_fails", {"word": "exited"}, 100),
        ("pull_fails", {"word": "offline"}, 100),
        ("no_worker", {}, 700),
        ("black_hole", {}, 150),
        ("slow_boot", {"seconds": 700.0}, 700),
    ],
)
def test_a_machine_that_does_not_come_up_makes_room_for_another(
    scene: Scene, fault: str, more: dict[str, Any], within_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    scene.vast.inject(fault, "boot", times=1, **more)
    (attempt,) = scene.wants()
    scene.round()
    first = scene.rows.living()[0]
    scene.until(lambda: puts(scene) == 2, within_s)
    scene.until(lambda: Stage.IDLE in scene.stages(), 100)
    assert first.machine_id in scene.rows.avoided(scene.clock.now_ms())
    assert scene.rows.living()[-1].machine_id != first.machine_id
    scene.over(attempt)
    nothing_is_left(scene)
    scene.vast.advance(3600)
    assert scene.rows.avoided(scene.clock.now_ms()) == set()


def test_ports_that_come_late_are_waited_for(scene: Scene) -> None:
    scene.vast.inject("ports_late", "boot", times=1, seconds=60)
    scene.ready()
    assert puts(scene) == 1


def test_a_machine_whose_worker_falls_silent_is_replaced(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
    scene.vast.strike(scene.vast.alive()[0].id, "black_hole")
    scene.go_on(55)
    assert scene.stages() == [Stage.BUSY]
    scene.go_on(20)
    assert scene.provider.poll(scene.fresh(attempt)).phase is Phase.GONE
    scene.over(attempt)
    nothing_is_left(scene)
    assert [i.code for i in scene.all()] == ["worker_lost"]


def test_while_vast_does_not_answer_either_no_worker_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
    scene.vast.inject("lost_request", "list", times=1000)
    scene.vast.strike(scene.vast.alive()[0].id, "black_hole")
    scene.go_on(180)
    assert scene.stages() == [Stage.BUSY]
    with pytest.raises(Unavailable):
        scene.provider.workers()


def test_a_worker_that_is_slow_to_answer_holds_up_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.providers.rental.probing.ASK_S", 0.3)
    ready, released, too_late = scene.ready(), threading.Event(), threading.Event()

    class Slow:
        def health(self) -> None:
            if not released.wait(60):
                too_late.set()
            raise Unavailable("too late")

    monkeypatch.setattr(scene.provider._workers, "of", lambda rental: Slow())
    orphan = scene.vast.stranger(labels.label("test", RENTAL, 1_700_000_000))
    scene.wants(2)
    try:
        scene.go_on(5)
    finally:
        released.set()
    assert not too_late.is_set(), "it was waited for"
    assert not next(i for i in scene.vast.instances if i.id == orphan).alive
    silent = scene.rows.get(ready.id)
    assert silent is not None and silent.silent_since is not None
    assert puts(scene) == 2


def test_no_machine_outlives_its_deadline_even_with_a_job(scene: Scene) -> None:
    scene.change(max_lifetime=1500)
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
    scene.go_on(1460, every_s=40)
    assert scene.stages() == [Stage.BUSY]
    scene.go_on(50)
    assert scene.vast.alive() == []
    assert [i.code for i in scene.all()] == ["lifetime"]


def test_a_machine_that_is_too_old_for_a_job_gets_none(scene: Scene) -> None:
    scene.change(max_lifetime=1500, idle_timeout=3600)
    scene.ready()
    scene.vast.advance(1500 - 720)
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), NotYet)
    scene.go_on(40)
    assert puts(scene) == 2
    assert isinstance(scene.submit(attempt), Accepted)


def test_a_machine_that_becomes_too_dear_goes(scene: Scene) -> None:
    scene.ready()
    scene.change(max_price=0.05)
    scene.go_on(15)
    assert [i.code for i in scene.all()] == ["price"]
    assert scene.vast.alive() == []


def test_a_machine_whose_encoder_does_not_work_is_given_back_and_avoided(scene: Scene) -> None:
    ready = scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
    scene._save(attempt, state=AttemptState.FAILED, error_code=EncoderUnavailable.code)
    scene.go_on(15)
    assert [i.code for i in scene.all()] == ["encoder_unavailable"]
    assert scene.vast.alive() == []
    assert scene.rows.avoided(scene.clock.now_ms()) == {ready.machine_id}
    scene.ready()
    assert len(scene.vast.alive()) == 1, "the next machine is not to blame"


@pytest.mark.parametrize(
    ("codes", "goes"),
    [
        (["worker_disk_full", "worker_disk_full"], True),
        (["upload_failed", "gateway_unreachable"], True),
        (["worker_error", None, "worker_error"], False),
        (["worker_error"], False),
        (["asset_invalid", "asset_invalid"], False),
    ],
)
def test_a_machine_where_two_jobs_in_a_row_fail_by_its_fault_goes(
    scene: Scene, codes: list[str | None], goes: bool
) -> None:
    ready = scene.ready()
    for code in codes:
        (attempt,) = scene.wants()
        # in life's time, its worker may not have ended the one before yet
        eventually(partial(_is_taken, scene, attempt))
        scene.over(attempt)
        if code is not None:
            scene._save(attempt, state=AttemptState.FAILED, error_code=code)
        scene.vast.advance(1)
    scene.go_on(5)
    assert [i.code for i in scene.all()] == ([codes[-1]] if goes else [None])
    assert scene.rows.avoided(scene.clock.now_ms()) == ({ready.machine_id} if goes else set())


def _is_taken(scene: Scene, attempt: Attempt) -> bool:
    return isinstance(scene.submit(attempt), Accepted)


# ---- the end of a machine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "more"),
    [
        ("ignored", {}),
        ("status", {"status": 500}),
        ("rate_limited", {}),
        ("auth_error", {}),
        ("lost_request", {}),
        ("lost_reply", {}),
        ("garbage", {"body": "{}"}),
    ],
)
def test_a_destroy_is_repeated_until_there_is_proof(scene: Scene, fault: str, more: dict[str, Any]) -> None:
    scene.ready()
    scene.go_on(295)
    told = scene.vast.inject(fault, "destroy", times=3, **more)
    scene.go_on(35)
    assert told.hits == (1 if fault in {"lost_reply", "garbage"} else 3) or fault in {"lost_reply", "garbage"}
    assert scene.vast.alive() == []
    assert scene.stages() == []


def test_a_wrong_key_proves_no_end(scene: Scene) -> None:
    scene.ready()
    scene.vast.configure(api_key="another")
    scene.go_on(900, every_s=30)
    assert scene.stages() == [Stage.DESTROYING]
    scene.vast.configure(api_key=scene.own.api_key)
    scene.go_on(15)
    assert scene.stages() == []
    assert scene.vast.alive() == []


def test_what_two_listings_lack_is_gone(scene: Scene) -> None:
    scene.ready()
    scene.vast.inject("status", "destroy", times=1000, status=500)
    scene.go_on(305)
    scene.vast.account.end(scene.vast.alive()[0], "host")
    scene.go_on(50)
    assert scene.stages() == [Stage.DESTROYING]
    scene.go_on(30)
    assert scene.stages() == []


def test_a_destroyed_machine_in_an_old_listing_is_no_orphan(scene: Scene) -> None:
    scene.ready()
    scene.vast.configure(list_behind=8)
    nothing_is_left(scene)
    assert orphans(scene.store) == 0
    assert [i.code for i in scene.all()] == ["idle"]


# ---- listings, ours and theirs


@pytest.mark.parametrize("lie", ["truncated", "wrong_count", "no_list", "unsuccessful", "status", "lost_reply"])
def test_a_listing_that_is_not_whole_is_not_believed(scene: Scene, lie: str) -> None:
    scene.vast.stranger(labels.label("test", RENTAL, 1_700_000_000))
    scene.vast.inject(lie, "list", times=1000)
    scene.wants()
    scene.go_on(120)
    assert puts(scene) == 0
    assert scene.vast.touched_strangers() == []
    with pytest.raises(Unavailable):
        scene.provider.workers()
    scene.vast.faults.clear()
    scene.go_on(10)
    assert puts(scene) == 1


def test_a_listing_of_many_pages_is_read_to_its_end(scene: Scene) -> None:
    for number in range(60):
        scene.vast.stranger(f"somebody's {number}")
    scene.ready()
    assert len(scene.provider._cloud.list()) == 61
    scene.vast.inject("bad_token", "list", times=2)
    with pytest.raises(Unavailable):
        scene.provider._cloud.list()


def test_an_orphan_is_found_counted_and_destroyed(scene: Scene) -> None:
    label = labels.label("test", RENTAL, 1_700_000_000)
    orphan = scene.vast.stranger(label)
    with capture_logs() as logs:
        scene.round()
    assert [line["label"] for line in logs if line["event"] == "rental.orphan_found"] == [label]
    scene.go_on(15)
    assert not next(i for i in scene.vast.instances if i.id == orphan).alive
    assert orphans(scene.store) == 1
    assert [(i.stage, i.code) for i in scene.all()] == [(Stage.GONE, "orphan")]


@pytest.mark.parametrize("price", [float("inf"), float("nan"), 0.36])
def test_an_orphan_is_paid_for_since_its_label_says(scene: Scene, price: float) -> None:
    meant = scene.clock.now_ms() // 1000 - 60
    scene.vast.stranger(labels.label("test", RENTAL, meant), dph_total=price)
    scene.round()
    (found,) = scene.all()
    assert (found.sent_at, found.nano_per_s) == (meant * 1000, 100_000 if price == 0.36 else 0)


def test_what_has_another_label_is_reported_and_never_touched(scene: Scene) -> None:
    others = [
        None,
        "",
        "reelay",
        "reelay:test",
        "reelay:test:notes",
        f"reelay:test2:{RENTAL}:1700000000",
        f"reelay:tes:{RENTAL}:1700000000",
        f"reelay:test:{RENTAL}:1700000000:old",
        f" reelay:test:{RENTAL}:1700000000",
        f"reelay:test:{RENTAL}:1700000000\n",
        f"RELAY:test:{RENTAL}:1700000000",
        "reelay:test:no-uuid:1700000000",
    ]
    strangers = {scene.vast.stranger(label) for label in others}
    with capture_logs() as logs:
        scene.ready()
        nothing_is_left(scene)
    assert [set(line["remote_ids"]) for line in logs if line["event"] == "rental.strangers_listed"] == [strangers]


def test_one_sweep_ends_so_many_and_no_more(scene: Scene) -> None:
    for _ in range(MAX_KILLS + 3):
        scene.vast.stranger(labels.label("test", RENTAL, 1_700_000_000))
    scene.round()
    assert len(scene.rows.living()) == MAX_KILLS
    scene.go_on(60)
    assert [i for i in scene.vast.instances if i.alive] == []


# ---- several gateways, and gateways that die


def test_an_intent_that_was_never_sent_is_no_machine(scene: Scene) -> None:
    scene.wants()
    scene.provider._cloud.await_create = lambda: (_ for _ in ()).throw(Unavailable("not now"))  # type: ignore[method-assign]
    scene.round()
    assert scene.stages() == [Stage.INTENT]
    scene.round(scene.another())
    assert [i.stage for i in scene.all()] == [Stage.NO_MACHINE, Stage.BOOTING]


@pytest.mark.parametrize("effect", [True, False])
def test_a_gateway_that_died_in_the_creation_leaves_no_machine_behind(scene: Scene, effect: bool) -> None:
    class Killed(BaseException):
        pass

    create = scene.provider._cloud.create

    def dies(offer_id: int, request: Any) -> int:
        if effect:
            create(offer_id, request)
        raise Killed

    scene.provider._cloud.create = dies  # type: ignore[method-assign]
    scene.wants()
    with pytest.raises(Killed):
        scene.provider.reconcile()
    after = scene.another()
    scene.go_on(5, after)
    assert scene.stages() == [Stage.BOOTING if effect else Stage.AMBIGUOUS]
    scene.go_on(50, after)
    assert scene.vast.calls["create"] == (1 if effect else 0)
    scene.go_on(90, after)
    assert scene.stages() == [Stage.IDLE]
    assert len(scene.vast.alive()) == 1


def test_only_one_gateway_is_in_a_round(scene: Scene) -> None:
    now = scene.clock.now_ms()
    with scene.store.transaction() as tx:
        assert tx.hold(scene.provider._manager.lease, "another", now, now + LEASE_MS)
    scene.wants()
    scene.go_on(LEASE_MS / 1000 - 5)
    assert scene.vast.calls == {}
    scene.go_on(10)
    assert puts(scene) == 1


def test_rounds_go_on_when_the_clock_goes_back(scene: Scene) -> None:
    scene.wants()
    scene.round()
    scene.vast.clock.move(-3600)
    scene.vast.reset_calls()
    scene.round()
    assert scene.vast.calls["list"] == 1


@on_every_database
def test_a_gateway_that_wakes_after_its_lease_creates_nothing_twice(scene: Scene) -> None:
    """It is stopped before CREATING is committed; the other one goes on."""
    stopped, other = scene.provider, scene.another()

    def sleeps() -> None:
        scene.vast.advance(LEASE_MS / 1000 + 1)
        scene.go_on(10, other)

    stopped._cloud.await_create = sleeps  # type: ignore[method-assign]
    scene.wants()
    scene.round(stopped)
    assert puts(scene) == 1
    assert [i.stage for i in scene.all()] == [Stage.NO_MACHINE, Stage.BOOTING]


def test_what_a_gateway_sends_that_wakes_in_the_creation_is_found(scene: Scene) -> None:
    """It is stopped behind the last check: what it creates late has a label whose slot was given to another."""
    stopped, other = scene.provider, scene.another()
    create = stopped._cloud.create

    def sleeps(offer_id: int, request: Any) -> int:
        scene.vast.advance(LEASE_MS / 1000 + 1)
        scene.go_on(200, other)
        return create(offer_id, request)

    stopped._cloud.create = sleeps  # type: ignore[method-assign]
    (attempt,) = scene.wants()
    scene.round(stopped)
    assert len(scene.vast.alive()) == 2
    scene.go_on(70, other)
    assert len(scene.vast.alive()) == 1
    assert orphans(scene.store) == 1
    scene.over(attempt)
    nothing_is_left(scene)


def test_machines_are_adopted_by_the_gateway_that_comes_next(scene: Scene) -> None:
    ready = scene.ready()
    scene.provider = scene.another()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
    assert scene.fresh(attempt).remote_id == f"{ready.id}:{attempt.id}"


def test_a_price_is_that_of_the_machine(scene: Scene) -> None:
    (attempt,) = scene.wants()
    assert scene.provider.price(attempt, None).nano_per_s == round(1e9 / 3600)
    scene.vast.account.offers[:] = [offer(7, gpu_name="RTX 4090", dph_total=0.36)]
    scene.until(lambda: scene.stages() == [Stage.READY] or scene.stages() == [Stage.IDLE])
    for gpu in ("NVIDIA GeForce RTX 4090", None, "NVIDIA L4"):
        price = scene.provider.price(attempt, gpu)
        assert (price.nano_per_s, price.idle_s) == (100_000, 300)
    assert isinstance(scene.submit(attempt), Accepted)
    scene.over(attempt)
    scene.until(lambda: not scene.stages())
    scene.vast.account.offers[:] = [offer(8, gpu_name="RTX 4090", dph_total=0.72)]
    scene.ready()
    on_the_first = scene.fresh(attempt)
    assert scene.provider.price(on_the_first, "NVIDIA GeForce RTX 4090").nano_per_s == 100_000
    assert scene.provider.price(on_the_first, None).nano_per_s == 100_000, "it failed, and told no GPU"
    assert scene.another(concurrency=2).price(on_the_first, None).nano_per_s == 50_000, "its share"
