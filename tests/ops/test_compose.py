"""compose.yaml matches the configuration that it mounts."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gateway.__main__ import STOP_S
from gateway.settings import Settings
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])


def test_only_nginx_is_published(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    assert "server gateway:8000;" in (ROOT / "ops/nginx.conf").read_text()
    assert services["gateway"]["environment"]["PORT"] == "8000"


def test_the_gateway_keeps_its_data_and_has_no_capabilities(services: dict[str, Any]) -> None:
    gateway = services["gateway"]
    assert gateway["volumes"] == ["data:/data", "files:/data/files"] and gateway["environment"]["DATA_DIR"] == "/data"
    assert gateway["read_only"] and gateway["cap_drop"] == ["ALL"]
    assert int(gateway["stop_grace_period"].rstrip("s")) > STOP_S
    assert {name.lower() for name in gateway["environment"]} <= set(Settings.__dataclass_fields__)


def test_mounted_and_built_files_exist(services: dict[str, Any]) -> None:
    assert (ROOT / services["gateway"]["build"]["dockerfile"]).exists()
    assert services["nginx"]["volumes"][0] == "./ops/nginx.conf:/etc/nginx/nginx.conf:ro"


def test_nginx_reads_the_files_and_nothing_else_of_the_gateway(services: dict[str, Any]) -> None:
    config = (ROOT / "ops/nginx.conf").read_text()
    gateway, nginx = services["gateway"], services["nginx"]
    assert f"location {gateway['environment']['X_ACCEL_REDIRECT']}/ {{" in config
    assert "alias /data/files/;" in config and "client_body_temp_path /var/cache/nginx/uploads;" in config
    assert nginx["volumes"][1:] == ["files:/data/files:ro", "cache:/var/cache/nginx"]
    assert "install -d -o reelay /data /data/files" in (ROOT / "Dockerfile.gateway").read_text()
