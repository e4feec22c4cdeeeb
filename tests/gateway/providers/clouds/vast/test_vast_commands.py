"""`flask --app gateway vast offers | rentals | destroy`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask.cli import cli as flask_cli

from gateway import create_app
from gateway.db import rental_store
from gateway.domain.attempts import AttemptState
from gateway.domain.rentals import Stage
from gateway.providers.base import Phase
from gateway.providers.clouds.vast import vast_commands
from gateway.providers.rental import labels
from tests.emulators.vast import offer
from tests.gateway.providers.vast_scene import RENTAL, Scene

Call = Callable[..., Result]


@pytest.fixture
def call(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call("destroy", "--all", typed="y\n", max_price=0.1)`."""
    monkeypatch.setattr(vast_commands, "PAUSE_S", 0.0)

    def call(*words: str, typed: str | None = None, **changed: Any) -> Result:
        app = create_app(scene.settings.with_parts(replace(scene.own, **changed)))
        return app.test_cli_runner().invoke(args=["vast", *words], input=typed)

    return call


@pytest.fixture
def flask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scene: Scene) -> Call:
    """As typed on a machine that runs no gateway, with this environment and no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"VAST_API_BASE": scene.vast.url, "VAST_API_KEY": scene.vast.config.api_key})
    monkeypatch.setattr(vast_commands, "PAUSE_S", 0.0)

    def flask(*words: str, **environ: str) -> Result:
        os.environ |= environ
        return CliRunner().invoke(flask_cli, ["--app", "gateway", "vast", *words])

    return flask


def row(result: Result, begin: object) -> list[str]:
    """The cells of the line that begins so."""
    lines = [line for line in result.stdout.splitlines() if line.startswith(f"{begin}  ")]
    assert len(lines) == 1, result.output
    return [cell.strip() for cell in lines[0].split("  ") if cell.strip()]


def calls_that_write(scene: Scene) -> int:
    return sum(scene.vast.calls[kind] for kind in ("create", "destroy", "manage"))


# ---- offers


def test_offers_shows_the_best_first_with_its_price_and_why_others_are_not(scene: Scene, call: Call) -> None:
    result = call("offers")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[:2]]
    assert cells[0] == ["Offer", "GPU", "Dollars an hour", "a GB in", "a GB out", "10 jobs", "Machine"]
    # 520 s, 1.5 GB in and 0.5 GB out
    assert cells[1][1:6] == ["RTX 3060", "0.080", "0.002", "0.004", "0.017"]
    assert "The first would be rented now (VAST_OFFER_ORDER=cost, " in result.stdout
    # 120 + 10 + 300 s for 0.08 dollars an hour, and 0.6 GB in and 0.05 GB out
    assert "costs $0.0110." in result.stdout
    assert "its GPU is not known to have NVENC" in result.stdout
    assert "reliability below 0.97" in result.stdout
    assert calls_that_write(scene) == 0


def test_offers_are_those_that_the_pool_takes(scene: Scene, call: Call) -> None:
    for _ in range(3):
        reported = call("offers", offer_order="speed").stdout.splitlines()[1].split()[0]
        scene.change(offer_order="speed")
        scene.wants()
        scene.go_on(10)
        assert str(scene.rows.living()[-1].offer_id) == reported


def test_a_machine_that_failed_is_not_offered_and_counted(scene: Scene, call: Call) -> None:
    first = call("offers").stdout.splitlines()[1].split()
    now = scene.clock.now_ms()
    with scene.store.transaction() as tx:
        rental_store.avoid(tx, "vast", int(first[-1]), now + 600_000, "it was not up")
    result = call("offers")
    assert result.stdout.splitlines()[1].split()[0] != first[0]
    assert "1 machine that would fit are rented, or failed within the last hour." in result.stdout


def test_nothing_that_fits_exits_with_1(call: Call) -> None:
    result = call("offers", max_price=0.01)
    assert result.exit_code == 1
    assert result.stdout.startswith("Nothing fits")
    assert "above VAST_MAX_PRICE" in result.stdout


def test_an_account_without_credit_and_a_pool_in_trouble_are_reported(scene: Scene, call: Call) -> None:
    scene.vast.configure(credit=0.5)
    scene.wants()
    scene.round()
    reported = call("offers").stdout.splitlines()
    assert reported[-2] == "! The account has $0.50; nothing is rented below VAST_MIN_CREDIT ($1.00)."
    assert reported[-1] == "! The gateway rented nothing when it last tried: the Vast.ai account has 0.50 dollars left."


def test_a_key_is_all_that_offers_needs(flask: Call, scene: Scene) -> None:
    result = flask("offers")
    assert result.exit_code == 0, result.output
    assert "RTX 3060" in result.stdout


@pytest.mark.parametrize(
    ("environ", "reported"),
    [
        ({}, "Vast.ai refuses this gateway's key: check VAST_API_KEY"),
        ({"VAST_API_KEY": ""}, "VAST_API_KEY is not set."),
        ({"VAST_API_BASE": "http://127.0.0.1:9"}, "Vast.ai cannot be reached: ConnectionError"),
    ],
)
def test_errors_are_reported_without_the_key(flask: Call, scene: Scene, environ: dict[str, str], reported: str) -> None:
    scene.vast.inject("auth_error", "account", times=None)
    result = flask("offers", **environ)
    assert (result.exit_code, result.stderr) == (1, f"Error: {reported}\n")


# ---- rentals


def test_instances_stand_beside_their_records(scene: Scene, call: Call) -> None:
    record = scene.ready()
    foreign = scene.vast.foreign("reelay:test2:mine")
    label = labels.label("test", RENTAL, int(time.time()))
    orphan = scene.vast.account.create(offer(77), label=label, image="acme/worker:1").id
    for rental in scene.vast.instances:
        rental.created_at = time.time() - 3690
    result = call("rentals")
    assert result.exit_code == 0, result.output
    assert row(result, record.remote_id) == [
        str(record.remote_id), "running", "idle", "1:01 h", "0.080", "ours", record.label,
    ]  # fmt: skip
    assert row(result, orphan)[2:] == ["none", "1:01 h", "0.200", "ours", label]
    assert row(result, foreign)[2:] == ["none", "1:01 h", "0.200", "another's", "reelay:test2:mine"]
    assert "2 machines of test: $0.280 an hour." in result.stdout
    assert "! A machine of ours has no record" in result.stdout
    assert calls_that_write(scene) == 1  # by the pool


def test_records_without_a_machine_are_shown(scene: Scene, call: Call) -> None:
    record = scene.ready()
    scene.vast.account.end(scene.vast.alive()[0], "host")
    result = call("rentals")
    assert row(result, record.remote_id)[1:3] == ["not listed", "idle"]
    assert "0 machines of test: $0.000 an hour." in result.stdout


def test_without_a_gateway_the_records_are_unknown(flask: Call, scene: Scene) -> None:
    record = scene.ready()
    assert flask("rentals").stderr.startswith("Error: DEPLOYMENT is not set")
    result = flask("rentals", DEPLOYMENT="test")
    assert row(result, record.remote_id)[1:3] == ["running", "?"]


def test_a_listing_that_is_not_whole_is_not_shown(scene: Scene, call: Call) -> None:
    scene.ready()
    scene.vast.inject("truncated", "list", times=vast_commands.LOOKS)
    result = call("rentals")
    assert (result.exit_code, result.stderr) == (1, "Error: Vast.ai lists 0 machines of 1\n")


@pytest.mark.parametrize("words", [["offers"], ["rentals"], ["destroy", "--all", "--yes"]])
def test_a_gateway_that_calls_at_the_same_moment_is_no_hindrance(scene: Scene, call: Call, words: list[str]) -> None:
    scene.ready()
    scene.vast.inject("rate_limited", "*", times=2)
    assert call(*words).exit_code == 0


# ---- destroy


def test_destroy_asks_first(scene: Scene, call: Call) -> None:
    record = scene.ready()
    for typed in ("n\n", ""):
        result = call("destroy", str(record.remote_id), typed=typed)
        assert result.exit_code == 1
        assert "Destroy 1 machine? Their jobs start again elsewhere" in result.stdout
    assert len(scene.vast.alive()) == 1
    assert calls_that_write(scene) == 1
    result = call("destroy", str(record.remote_id), typed="y\n")
    assert result.exit_code == 0, result.output
    assert f"{record.remote_id} is destroyed." in result.stdout
    assert scene.vast.alive() == []


def test_destroy_by_our_own_id_is_recorded_and_its_job_begins_again(scene: Scene, call: Call) -> None:
    record = scene.ready()
    (attempt,) = scene.wants()
    scene.submit(attempt)
    assert scene.fresh(attempt).state is AttemptState.SUBMITTED
    assert call("destroy", record.id, "--yes").exit_code == 0
    (gone,) = scene.all()
    assert (gone.stage, gone.code) == (Stage.GONE, "operator")
    assert scene.provider.poll(scene.fresh(attempt)).phase is Phase.GONE
    scene.over(attempt)
    scene.go_on(130)
    assert scene.rows.avoided(scene.clock.now_ms()) == set()
    assert scene.creates == 1


def test_all_is_all_of_ours_and_nothing_else(scene: Scene, call: Call) -> None:
    scene.wants(3)
    scene.go_on(40)
    foreign = [scene.vast.foreign(text) for text in (None, "reelay:test2:x", f"reelay:test:{RENTAL}:1600000000x")]
    result = call("destroy", "--all", "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("is destroyed.") == 3
    assert [rental.id for rental in scene.vast.account.alive()] == foreign
    assert scene.vast.touched_foreign() == []
    assert call("destroy", "--all").stdout == "There is nothing to destroy.\n"


@pytest.mark.parametrize("text", [None, f"reelay:other:{RENTAL}:1600000000"])
def test_a_foreign_machine_is_never_touched(scene: Scene, call: Call, text: str | None) -> None:
    foreign = scene.vast.foreign(text)
    result = call("destroy", str(foreign), "--yes")
    assert result.exit_code == 1
    assert f"{foreign} has the label {text!r}, which is not one of test: it is left alone." in result.stderr
    assert scene.vast.touched_foreign() == []


def test_a_destroy_that_does_nothing_twice_is_made_again(scene: Scene, call: Call) -> None:
    record = scene.ready()
    scene.vast.inject("ignored", "destroy", times=2)
    scene.vast.inject("status", "show", times=1)
    assert call("destroy", record.id, "--yes").exit_code == 0
    assert scene.vast.alive() == []


def test_what_cannot_be_proven_is_reported_and_the_pool_goes_on(scene: Scene, call: Call) -> None:
    record = scene.ready()
    scene.vast.inject("ignored", "destroy", times=vast_commands.TRIES)
    result = call("destroy", record.id, "--yes")
    assert result.exit_code == 1
    assert f"Error: Not gone yet: {record.remote_id}. They are billed until they are gone." in result.stderr
    assert scene.stages() == [Stage.DESTROYING]
    scene.go_on(70)
    assert scene.vast.alive() == []


def test_an_orphan_is_destroyed_without_a_gateway_too(scene: Scene, flask: Call) -> None:
    label = labels.label("test", RENTAL, int(time.time()))
    orphan = scene.vast.account.create(offer(77), label=label, image="acme/worker:1").id
    result = flask("destroy", str(orphan), "--yes", DEPLOYMENT="test")
    assert result.exit_code == 0, result.output
    assert scene.vast.alive() == []


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ([], "Name a rental, or give --all."),
        (["1", "--all"], "Name a rental, or give --all."),
        (["1", "--yes"], "Vast.ai lists no rental 1; `rentals` shows them all."),
    ],
)
def test_a_wrong_call_destroys_nothing(scene: Scene, call: Call, words: list[str], reported: str) -> None:
    scene.ready()
    result = call("destroy", *words)
    assert result.exit_code in {1, 2}
    assert reported in result.stderr
    assert len(scene.vast.alive()) == 1
