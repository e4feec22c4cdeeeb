"""Records and listings: nothing is forgotten, and no machine of others is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from gateway.db import rental_store
from gateway.db.rental_store import orphans
from gateway.domain.rentals import Stage
from gateway.providers.base import Unavailable
from gateway.providers.rental import labels
from gateway.providers.rental.reconciliation import MAX_KILLS
from tests.gateway.providers.vast_scene import RENTAL, Scene


@pytest.mark.parametrize("label", ["another's", f"reelay:other:{RENTAL}:1700000000"])
def test_an_id_in_an_error_may_be_that_of_a_foreign_machine(scene: Scene, label: str) -> None:
    scene.vast.foreign(label)
    scene.vast.inject("foreign_in_error", "create", times=1, status=500)
    (attempt,) = scene.wants()
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert scene.creates == 2
    scene.over(attempt)
    scene.ends_with_nothing()


@pytest.mark.parametrize(
    ("stage", "listed"), [(Stage.BOOTING, True), (Stage.DESTROYING, True), (Stage.DESTROYING, False)]
)
def test_an_id_that_turns_out_to_be_a_foreign_machines_is_forgotten(scene: Scene, stage: Stage, listed: bool) -> None:
    scene.wants()
    scene.round()
    (rental,) = scene.rows.living()
    scene.vast.account.end(scene.vast.alive()[0], "host")
    theirs = scene.vast.foreign("another's")
    with scene.store.transaction() as tx:
        rental_store.save(tx, replace(rental, stage=stage, remote_id=theirs))
    if not listed:
        scene.vast.inject("status", "list", times=1, status=500)
    scene.round()
    forgotten = scene.rows.get(rental.id)
    assert forgotten is not None
    assert (forgotten.remote_id, forgotten.code) == (None, "not_ours")
    assert forgotten.stage is (Stage.AMBIGUOUS if stage is Stage.BOOTING else Stage.GONE)
    assert scene.vast.touched_foreign() == []


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["truncated", "wrong_count", "no_list", "unsuccessful", "status", "lost_reply"])
def test_a_listing_that_is_not_whole_is_not_believed(scene: Scene, lie: str) -> None:
    scene.vast.foreign(labels.label("test", RENTAL, 1_700_000_000))
    scene.vast.inject(lie, "list", times=1000)
    scene.wants()
    scene.go_on(120)
    assert scene.creates == 0
    assert scene.vast.touched_foreign() == []
    with pytest.raises(Unavailable):
        scene.provider.workers()
    scene.vast.faults.clear()
    scene.go_on(10)
    assert scene.creates == 1


def test_a_listing_of_many_pages_is_read_to_its_end(scene: Scene) -> None:
    for number in range(60):
        scene.vast.foreign(f"another's {number}")
    scene.ready()
    assert len(scene.provider._cloud.list()) == 61
    scene.vast.inject("bad_token", "list", times=2)
    with pytest.raises(Unavailable):
        scene.provider._cloud.list()


def test_an_orphan_is_found_counted_and_destroyed(scene: Scene) -> None:
    label = labels.label("test", RENTAL, 1_700_000_000)
    orphan = scene.vast.foreign(label)
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
    scene.vast.foreign(labels.label("test", RENTAL, meant), dph_total=price)
    scene.round()
    (found,) = scene.all()
    assert (found.sent_at, found.nano_per_s) == (meant * 1000, 100_000 if price == 0.36 else 0)


def test_what_has_another_label_is_reported_and_never_touched(scene: Scene) -> None:
    others = [None, f"reelay:test2:{RENTAL}:1700000000", f"reelay:test:{RENTAL}:1700000000\n"]
    foreign = {scene.vast.foreign(label) for label in others}
    with capture_logs() as logs:
        scene.ready()
        scene.ends_with_nothing()
    assert [set(line["remote_ids"]) for line in logs if line["event"] == "rental.foreign_found"] == [foreign]


def test_one_sweep_ends_so_many_and_no_more(scene: Scene) -> None:
    for _ in range(MAX_KILLS + 3):
        scene.vast.foreign(labels.label("test", RENTAL, 1_700_000_000))
    scene.round()
    assert len(scene.rows.living()) == MAX_KILLS
    scene.go_on(60)
    assert [i for i in scene.vast.instances if i.alive] == []


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
    scene.ends_with_nothing()
    assert orphans(scene.store) == 0
    assert [i.code for i in scene.all()] == ["idle"]
