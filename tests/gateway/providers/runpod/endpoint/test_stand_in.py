"""The stand-in refuses what RunPod refuses, so that the tests beside this one prove something."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.emulators.runpod.management import Management

GPU = {"pools": ["ADA_24"]}
CREATE = {
    "name": "x",
    "type": "QUEUE",
    "image": "acme/worker:1",
    "gpu": GPU,
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}
BY_COUNT = {"type": "REQUEST_COUNT", "requestCount": 1}


def send(runpod: Management, method: str, path: str, body: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {runpod.key}"}
    return requests.request(method, f"{runpod.base}{path}", json=body, headers=headers, timeout=5)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 201),
        ({"image": None}, 422),
        ({"colour": "red"}, 422),
        ({"workers": {"idleTimeout": 3601}}, 422),
        ({"type": None}, 422),
        ({"scaling": BY_COUNT}, 201),
        ({"scaling": BY_COUNT, "workers": {"idleTimeout": 300}}, 422),
        ({"gpu": None}, 400),
        ({"gpu": {"pools": ["ADA_25"]}}, 400),
        ({"gpu": GPU | {"excludedTypes": ["NVIDIA L4"]}}, 400),
        ({"gpu": GPU | {"minCudaVersion": "12.1", "allowedCudaVersions": ["12.8"]}}, 400),
        ({"gpu": GPU | {"minCudaVersion": "12.1", "allowedCudaVersions": []}}, 201),
    ],
)
def test_creations(runpod: Management, change: dict[str, Any], status: int) -> None:
    body = {key: value for key, value in {**CREATE, **change}.items() if value is not None}
    answer = send(runpod, "POST", "/serverless", body)
    assert answer.status_code == status, answer.text
    assert len(runpod.endpoints) == (status == 201)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"disk": 5}, 200),
        ({"type": "QUEUE"}, 422),
        ({"gpu": {"excludedTypes": ["NVIDIA L4"]}}, 422),
        ({"cpu": [{"id": "cpu5c", "vcpuCount": 4}]}, 400),
    ],
)
def test_changes(runpod: Management, body: dict[str, Any], status: int) -> None:
    key = runpod.add()
    assert send(runpod, "PATCH", f"/serverless/{key}", body).status_code == status
    assert send(runpod, "PATCH", "/serverless/none", body).status_code == 404


def test_pools_without_exclusions_clear_them_and_env_is_replaced_whole(runpod: Management) -> None:
    key = runpod.add(gpu={"pools": ["AMPERE_48"], "excludedTypes": ["NVIDIA A40"]}, env={"A": "1"})
    send(runpod, "PATCH", f"/serverless/{key}", {"gpu": {"pools": ["AMPERE_48"]}, "env": {"B": "2"}})
    assert "excludedTypes" not in runpod.endpoints[key]["gpu"]
    assert runpod.endpoints[key]["env"] == {"B": "2"}


def test_nobody_gets_in_without_the_key(runpod: Management) -> None:
    answer = requests.get(f"{runpod.base}/serverless", timeout=5)
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
