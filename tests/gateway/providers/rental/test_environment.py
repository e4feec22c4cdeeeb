"""What a rented worker gets, and from where it may be called."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest

from common.settings import SettingsError, read, variables
from gateway.configuration import check, read_settings
from gateway.providers.clouds.vast.client import creation
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.registry import PROVIDERS
from gateway.providers.rental.cloud import Order
from gateway.providers.rental.environment import environment
from gateway.providers.worker_client import credentials_of
from gateway.settings import Settings as GatewaySettings
from gateway.signing import Signer
from handler.http_worker import _check
from handler.settings import Settings as WorkerSettings
from tests.gateway.conftest import SECRET_KEY

GIVEN = VastSettings(concurrency=2)
RENTAL = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"


SIGNER = Signer((SECRET_KEY, "older-" + SECRET_KEY))


def given(
    settings: VastSettings = GIVEN,
    signer: Signer = SIGNER,
    rental: str = RENTAL,
    allowed: tuple[str, ...] = ("192.0.2.1",),
) -> dict[str, str]:
    return environment(settings, signer, rental, allowed)


def test_no_secret_of_ours_is_in_it() -> None:
    """Every setting that could hold one has a text of its own, which is looked for in what a cloud gets."""
    classes = [GatewaySettings, *(provider.settings for provider in PROVIDERS.values())]
    variables_of_text = {
        name: f.name for cls in classes for name, f in variables(cls).items() if f.type in {"str", "str | None"}
    }
    secrets = {"X_API_KEY", "RUNPOD_API_KEY", "VAST_API_KEY", "S3_SECRET_ACCESS_KEY", "DATABASE_URL"}
    assert secrets <= variables_of_text.keys()
    own = {f.name: f"sentinel-{f.name}-{'0' * 32}" for f in dataclasses.fields(VastSettings) if "str" in str(f.type)}
    own.pop("allowed_ips")
    settings, signer = replace(GIVEN, **own), Signer(("sentinel-secret-key-" + "0" * 32,))
    order = Order("image", "label", given(settings, signer), 3334)
    assert "sentinel" not in json.dumps(creation(order))
    assert SECRET_KEY not in json.dumps(given())


def test_the_worker_understands_it_and_lets_the_gateway_in() -> None:
    worker = read(WorkerSettings, given(allowed=("192.0.2.1", "2001:db8::/32")))
    _check(worker)
    secrets = credentials_of(SIGNER, RENTAL)[0].environ
    assert (worker.session_token, worker.worker_api_key) == (secrets["SESSION_TOKEN"], secrets["WORKER_API_KEY"])
    assert worker.worker_tls and worker.worker_host == "0.0.0.0" and worker.worker_port == 3334
    assert worker.allowed_ips == ("192.0.2.1", "2001:db8::/32")
    assert worker.worker_concurrency == 2
    assert worker.nvenc_hide_foreign_gpus is False
    assert worker.worker_lifetime_seconds == GIVEN.max_lifetime
    assert worker.worker_silence_seconds == 420
    assert given()["WORKER_MODE"] == "http"


def test_the_workaround_for_drivers_reaches_the_worker() -> None:
    settings = read(VastSettings, {"VAST_NVENC_HIDE_FOREIGN_GPUS": "true"})
    assert read(WorkerSettings, given(settings)).nvenc_hide_foreign_gpus


def test_every_machine_has_secrets_of_its_own_that_a_restart_finds_again() -> None:
    one, again, other = given(), given(), given(rental="0190aaaa-bbbb-7ccc-8ddd-ffffffffffff")
    names = ("SESSION_TOKEN", "WORKER_API_KEY")
    assert one == again
    assert len({environ[name] for environ in (one, other) for name in names}) == 4
    assert all(len(one[name]) >= 64 for name in names)


def test_a_value_that_is_too_long_for_vast_is_not_sent() -> None:
    order = Order("image", "label", given(), 3334)
    assert creation(order)["env"] == {"-p 3334:3334": "1", **given()}
    with pytest.raises(AssertionError, match="too long"):
        creation(replace(order, environment=given(allowed=("2001:db8::/32",) * 30)))


@pytest.mark.parametrize("wrong", ["here", "192.0.2.1/8", "300.1.1.1", ",".join(["192.0.2.1"] * 40)])
def test_wrong_addresses_are_reported_at_the_start(wrong: str) -> None:
    with pytest.raises(SettingsError, match="VAST_ALLOWED_IPS"):
        check(read_settings({"VAST_ALLOWED_IPS": wrong, "PROVIDERS": "vast", "SECRET_KEY": SECRET_KEY}))
