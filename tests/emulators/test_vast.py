"""The stand-in for Vast.ai returns what the published schema says, and boots and bills as other tests expect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.conftest import WORKER_ENV, Renter
from tests.emulators.vast import Emulator, offer
from tests.emulators.vast.market import WITHOUT_NVENC
from tests.servers import eventually


@pytest.fixture(autouse=True)
def as_published(vast: Emulator) -> Iterator[None]:
    """No response of any test here breaks the published schema."""
    yield
    assert vast.unfit == []


# ---- calls


def test_search_filters_and_sorts(renter: Renter) -> None:
    filters = {
        "reliability": {"gte": 0.97},
        "num_gpus": {"eq": 1},
        "gpu_name": {"notin": [name for name, *_ in WITHOUT_NVENC]},
    }
    offers = renter.search(**filters, order=[["dph_total", "asc"]], allocated_storage=10).json()["offers"]
    assert len(offers) == 64
    assert [row["dph_total"] for row in offers] == sorted(row["dph_total"] for row in offers)
    assert not {row["gpu_name"] for row in offers} & {name for name, *_ in WITHOUT_NVENC}
    assert all(row["verification"] == "verified" and row["rentable"] and row["num_gpus"] == 1 for row in offers)


def test_an_offer_becomes_an_instance_and_is_free_again_after_its_end(vast: Emulator, renter: Renter) -> None:
    wanted = renter.offer()
    created = renter.create(wanted).json()
    instance = created["new_contract"]
    assert created == {"success": True, "new_contract": instance, "instance_api_key": vast.instances[0].key}
    shown = renter.show(instance)
    assert shown and (shown["label"], dict(shown["extra_env"])) == ("reelay:test:1:1", WORKER_ENV)
    again = renter.create(wanted)
    assert again.status_code == 404 and "no_such_ask" in again.json()["msg"]
    assert renter.destroy(instance).json()["success"] is True
    assert renter.show(instance) is None and renter.list().json()["instances"] == []
    assert renter.destroy(instance).status_code == 404
    assert renter.create(wanted).status_code == 200


@pytest.mark.parametrize("wrong", [{"env": {**WORKER_ENV, "NAME": 1}}, {"label": "l" * 257}, {"disk": 7}])
def test_an_invalid_request_creates_nothing(vast: Emulator, renter: Renter, wrong: dict[str, Any]) -> None:
    answer = renter.create(**wrong)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_args")
    assert vast.alive() == []


def test_the_pages_of_a_listing_are_one_snapshot(renter: Renter) -> None:
    ids = [renter.rented(label=f"reelay:test:{n}:1") for n in range(27)]
    first = renter.list(limit=1000).json()
    renter.destroy(ids[26])
    second = renter.list(after_token=first["next_token"]).json()
    assert [row["id"] for row in first["instances"] + second["instances"]] == ids
    assert (first["total_instances"], first["instances_found"], second["instances_found"]) == (27, 25, 2)


def test_a_container_s_key_destroys_its_own_instance_only(vast: Emulator, renter: Renter) -> None:
    instance, other = renter.rented(), renter.rented()
    key = vast.instances[0].key
    assert renter.destroy(other, key="wrong").json()["error"] == "auth_error"
    assert renter.destroy(other, key=key).status_code == 403
    assert renter.ask("GET", "v1/instances/", key=key).status_code == 403
    assert renter.destroy(instance, key=key).status_code == 200
    assert [one.id for one in vast.alive()] == [other]


def test_calls_of_a_kind_need_their_spacing(vast: Emulator, renter: Renter) -> None:
    vast.configure(spacing={"create": 4.5})
    renter.rented()
    early = renter.create()
    assert (early.status_code, "Retry-After" in early.headers) == (429, False)
    vast.advance(4.5)
    assert renter.create().status_code == 200


def test_a_day_has_so_many_searches(vast: Emulator, renter: Renter) -> None:
    vast.configure(searches_a_day=2)
    vast.clock.move(86_400 - vast.clock.now() % 86_400)
    assert [renter.search().status_code for _ in range(3)] == [200, 200, 429]
    assert renter.search().json()["error"] == "search_quota_exceeded"
    vast.clock.move(86_399)
    assert renter.search().status_code == 429
    vast.clock.move(1)
    assert renter.search().status_code == 200


def test_a_429_can_say_when_to_come_back(vast: Emulator, renter: Renter) -> None:
    vast.inject("rate_limited", "search", seconds=33)
    assert renter.search().headers["Retry-After"] == "33"


# ---- machines


def test_an_instance_boots_by_the_clock(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented()
    for seconds, status in ((0, None), (1, "created"), (1, "loading"), (87.9, "loading"), (0.1, "running")):
        vast.advance(seconds)
        shown = renter.show(instance)
        assert shown and shown["actual_status"] == status
    assert shown and shown["public_ipaddr"] == " 127.0.0.1 "
    assert [one["HostIp"] for one in shown["ports"]["3334/tcp"]] == ["::", "0.0.0.0"]


def test_time_is_paid_from_creation_to_destruction(vast: Emulator, renter: Renter) -> None:
    first = renter.rented()
    vast.advance(30)
    second = renter.rented()
    vast.advance(20)
    for instance, seconds in ((first, 100), (second, 1000)):
        renter.destroy(instance)
        vast.advance(seconds)
    bill = vast.bill()
    assert (bill["created"], bill["alive"]) == (2, 0)
    assert [one["paid_s"] for one in bill["instances"]] == pytest.approx([50, 120], abs=0.01)
    prices = [one.offer["dph_total"] for one in vast.instances]
    assert bill["dollars"] - bill["traffic_dollars"] == pytest.approx((50 * prices[0] + 120 * prices[1]) / 3600)


def test_traffic_is_billed_the_pull_of_the_image_too(vast: Emulator, renter: Renter) -> None:
    vast.configure(image_bytes=2_000_000_000)
    vast.account.offers[:] = [offer(7, inet_down_cost=0.01, inet_up_cost=0.03)]
    renter.rented()
    vast.account.transfer(vast.instances[0], 300_000_000, 100_000_000)
    bill = vast.bill()
    assert bill["traffic_dollars"] == pytest.approx(0.02 + 0.003 + 0.003)
    assert bill["dollars"] == pytest.approx(bill["traffic_dollars"])
    assert vast.account.credit == pytest.approx(vast.config.credit - bill["dollars"])


@pytest.mark.parametrize(
    ("share", "driver", "refuses"),
    [(1.0, "575.57.08", False), (0.5, "565.77", False), (0.5, "570.00", True), (0.25, "609.99.99", True),
     (0.5, "610.10", False)],
)  # fmt: skip
def test_nvenc_refuses_on_slices_with_some_drivers(
    vast: Emulator, renter: Renter, share: float, driver: str, refuses: bool
) -> None:
    row = offer(7, gpu_frac=share, driver_version=driver)
    assert vast.account.refuses_nvenc(row) is refuses
    vast.configure(refusing_machines=[row["machine_id"]])
    assert vast.account.refuses_nvenc(row), "it was asked for"


@pytest.mark.parametrize("refuses", [True, False])
def test_a_worker_where_nvenc_refuses_gets_more_environment(vast: Emulator, renter: Renter, refuses: bool) -> None:
    share = 0.5 if refuses else 1.0
    vast.account.offers[:] = [offer(7, gpu_frac=share, driver_version="575.57.08")]
    vast.configure(pretend=False, command=("sleep", "60"), env={"BOTH": "1"}, refusing_env={"NVENC": "refuses"})
    renter.rented()
    vast.advance(vast.config.boot_s)
    container: Any = vast.instances[0].container
    environ = container._environ()
    assert (environ["BOTH"], environ.get("NVENC")) == ("1", "refuses" if refuses else None)


@pytest.mark.slow
def test_a_real_worker_dies_with_its_instance(vast: Emulator, renter: Renter) -> None:
    vast.configure(pretend=False)
    instance = renter.rented()
    vast.advance(vast.config.boot_s)
    eventually(lambda: renter.healthy(instance))
    assert len(_processes_of(instance)) >= 2  # the supervisor, the worker
    renter.destroy(instance)
    eventually(lambda: not _processes_of(instance))
    assert vast.bill()["alive"] == 0


def _processes_of(instance: int) -> list[int]:
    """The processes whose environment names the instance."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"CONTAINER_ID={instance}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found
