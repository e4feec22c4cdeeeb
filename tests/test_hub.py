"""The files for RunPod's Hub, held to the rules of its publishing guide: https://docs.runpod.io/hub/publishing-guide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.operation import OPERATIONS
from gateway.providers.runpod.endpoint.wanted import MIN_CUDA, load
from gateway.providers.runpod.gpus import POOLS
from handler.attempt import validated
from handler.settings import Settings
from tests.conftest import ROOT
from tests.servers import PATIENCE_S
from wire.envelope import parse_job_input

FOLDER = ROOT / ".runpod"
HUB: dict[str, Any] = json.loads((FOLDER / "hub.json").read_text())
TESTS: dict[str, Any] = json.loads((FOLDER / "tests.json").read_text())
CATEGORIES = {"audio", "embedding", "language", "video", "image"}


@pytest.mark.parametrize("name", ["handler.py", "Dockerfile", "README.md"])
def test_what_the_hub_requires_is_in_its_folder_or_at_the_root(name: str) -> None:
    assert (FOLDER / name).is_file() or (ROOT / name).is_file()


def test_no_module_at_the_root_hides_the_package() -> None:
    assert not (ROOT / "handler.py").exists()


def test_the_hub_builds_the_workers_image() -> None:
    assert (FOLDER / "Dockerfile").read_text() == (ROOT / "Dockerfile.worker").read_text()


def test_its_handler_is_the_worker(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "WORK_DIR": str(tmp_path),
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }
    command = [sys.executable, str(FOLDER / "handler.py"), "--test_input", '{"input": {"operation": "paint"}}']
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "does not know the operation" in done.stdout + done.stderr


def test_the_listing_has_what_the_guide_asks_for() -> None:
    assert HUB["title"] and HUB["description"]
    assert (HUB["type"], HUB["config"]["runsOn"], HUB["config"]["gpuCount"]) == ("serverless", "GPU", 1)
    assert HUB["category"] in CATEGORIES


def test_the_listing_names_pools_that_can_encode_and_all_of_ours() -> None:
    pools = HUB["config"]["gpuIds"].split(",")
    assert all(POOLS[pool].nvenc for pool in pools)
    assert {pool.name for pool in wanted().pools} <= set(pools)


def test_the_disk_has_one_size_everywhere() -> None:
    sizes = {HUB["config"]["containerDiskInGb"], wanted().body["disk"]}
    assert sizes == {20}


def test_the_cuda_versions_are_all_from_the_floor_on() -> None:
    """Matching is exact: a version that is missing in the middle would exclude machines."""
    versions = HUB["config"]["allowedCudaVersions"]
    assert versions == TESTS["config"]["allowedCudaVersions"]
    pairs = sorted(tuple(map(int, version.split("."))) for version in versions)
    assert pairs[0] == MIN_CUDA == tuple(map(int, wanted().body["gpu"]["minCudaVersion"].split(".")))
    assert [minor for major, minor in pairs if major == MIN_CUDA[0]] == list(range(MIN_CUDA[1], 10))


def test_its_variables_are_settings_of_the_worker() -> None:
    known = {field.name.upper() for field in fields(Settings)}
    for variable in HUB["config"]["env"]:
        assert variable["key"] in known
        assert {"name", "type", "default"} <= variable["input"].keys()
        assert variable["input"]["default"] in {option["value"] for option in variable["input"]["options"]}
    assert {one["key"] for one in TESTS["config"]["env"]} <= known


def test_its_tests_are_valid_jobs_on_a_gpu_that_can_encode() -> None:
    assert [test["input"]["operation"] for test in TESTS["tests"]] == list(OPERATIONS)
    for test in TESTS["tests"]:
        assert test["name"] and type(test["timeout"]) is int and test["timeout"] > 0
        validated(parse_job_input(test["input"]))
    gpus = {gpu for pool in HUB["config"]["gpuIds"].split(",") for gpu in POOLS[pool].gpus}
    assert TESTS["config"]["gpuTypeId"] in gpus
    assert TESTS["config"]["gpuCount"] == 1


def wanted() -> Any:
    return load(ROOT / "runpod.toml", image="acme/reelay-worker:1.0")
