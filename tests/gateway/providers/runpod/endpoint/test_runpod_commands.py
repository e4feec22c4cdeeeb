"""`flask --app gateway runpod plan | apply | status` against a stand-in that is held to the published schema."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask.cli import cli as flask_cli

from gateway.providers.runpod.endpoint.plan_text import hints
from gateway.providers.runpod.endpoint.wanted import load
from tests.emulators.runpod.management import Fault, Management, gpu
from tests.gateway.providers.runpod.endpoint.conftest import IMAGE
from tests.servers import FileServer, Reply

Call = Callable[..., Result]
Edit = Callable[[str, str], None]
# The calls of `plan`.
LOOK = ["GET"] * 4
HEALTH = {
    "jobs": {"completed": 120, "failed": 2, "inProgress": 1, "inQueue": 3, "retried": 0},
    "workers": {"idle": 0, "initializing": 2, "ready": 1, "running": 1, "throttled": 0, "unhealthy": 0},
}


def row(result: Result, label: str) -> list[str]:
    """The cells of the line that begins with `label`."""
    lines = [line for line in result.stdout.splitlines() if line.startswith(f"{label}  ")]
    assert len(lines) == 1, result.output
    return [cell.strip() for cell in lines[0].split("  ") if cell.strip()]


@pytest.fixture
def applied(call: Call, runpod: Management) -> str:
    """The id of an endpoint that is as wanted."""
    assert call("apply").exit_code == 0
    runpod.calls.clear()
    (key,) = runpod.endpoints
    return key


# --- plan ---


def test_a_plan_shows_what_would_be_created_and_calls_only_to_read(call: Call, runpod: Management) -> None:
    result = call("plan")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Endpoint reelay\n")
    assert row(result, "GPU Configuration") == ["GPU Configuration", "AMPERE_16, AMPERE_24, ADA_24", "—"]  # fmt: skip
    assert "There is no such endpoint; `apply` creates it." in result.stdout
    assert runpod.calls == [
        ("GET", "/v2/serverless", None),
        ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=SERVERLESS", None),
        ("GET", "/v2/account/limits", None),
        ("GET", "/v2/serverless", None),
    ]
    assert "!" not in result.stdout


def test_a_plan_shows_wanted_present_and_changed(call: Call, runpod: Management, applied: str) -> None:
    runpod.endpoints[applied]["workers"] |= {"max": 2, "idleTimeout": 5}
    runpod.endpoints[applied]["env"]["DEBUG"] = "1"
    result = call("plan")
    assert row(result, "Max Workers") == ["Max Workers", "10", "2", "changed"]
    assert row(result, "Idle Timeout") == ["Idle Timeout", "300 s", "5 s", "changed"]
    assert row(result, "env DEBUG") == ["env DEBUG", "—", "1", "removed"]
    assert row(result, "Execution Timeout") == ["Execution Timeout", "720 s", "720 s"]
    assert "`apply` changes 3 fields." in result.stdout
    assert runpod.writes() == []


def test_a_plan_tells_what_it_costs_with_the_idle_tail(call: Call) -> None:
    result = call("plan")
    cells = row(result, "ADA_24")
    assert cells == ["ADA_24", "RTX 4090", "$0.00031", "$0.0031", "$0.093", "$0.0961"]
    assert "All 10 workers at once: at most $11.16 an hour." in result.stdout
    dearer = call("plan", gpu_prices={"ADA_24": 620_000})
    assert "$0.1922" in dearer.stdout
    assert "at most $22.32 an hour" in dearer.stdout


@pytest.mark.parametrize(("there", "code"), [({}, 0), ({"disk": 5}, 1), (None, 1)])
def test_check_tells_by_its_exit_code(
    call: Call, runpod: Management, applied: str, there: dict[str, Any] | None, code: int
) -> None:
    runpod.endpoints[applied] |= there or {}
    if there is None:
        runpod.endpoints.clear()
    assert call("plan", "--check").exit_code == code
    assert call("plan").exit_code == 0


# --- what the account offers and allows ---


def test_an_unknown_gpu_is_reported_and_excluded(call: Call, runpod: Management, applied: str) -> None:
    runpod.gpus += [gpu("NVIDIA RTX 9090", "ADA_24"), gpu("NVIDIA X1", "ADA_48_PRO"), gpu("NVIDIA X2", None)]
    result = call("plan", "--check")
    assert result.exit_code == 1
    assert row(result, "GPU Types switched off") == ["GPU Types switched off", "NVIDIA RTX 9090", "—", "changed"]
    assert "! Excluded, because it is not known whether they can encode: NVIDIA RTX 9090.\n" in result.stdout
    assert call("apply").exit_code == 0
    assert runpod.endpoints[applied]["gpu"]["excludedTypes"] == ["NVIDIA RTX 9090"]
    assert call("plan", "--check").exit_code == 0


def test_pools_with_unknown_gpus_only_are_refused(call: Call, runpod: Management, edit: Edit) -> None:
    edit('"AMPERE_16", "AMPERE_24", "ADA_24"', '"ADA_24"')
    runpod.gpus = [gpu("NVIDIA RTX 9090", "ADA_24")]
    result = call("apply")
    assert (result.exit_code, "No GPU is left in ADA_24" in result.stderr) == (1, True)
    assert runpod.writes() == []


def test_a_pool_that_the_catalogue_does_not_have_is_reported(call: Call, runpod: Management) -> None:
    runpod.gpus = [row for row in runpod.gpus if row["pool"] != "AMPERE_24"]
    assert "! RunPod's catalogue has no GPU in: AMPERE_24.\n" in call("plan").stdout


def test_costs_are_those_of_the_catalogue(call: Call, runpod: Management) -> None:
    for one in runpod.gpus:
        if one["pool"] == "ADA_24":
            one["price"]["serverless"] = 3.6
        if one["pool"] == "AMPERE_16":
            del one["price"]["serverless"]
    result = call("plan")
    assert row(result, "ADA_24")[2] == "$0.001"
    assert row(result, "AMPERE_16")[2] == "$0.00016"
    assert "! RunPod's catalogue has no price for AMPERE_16; this release's is shown." in result.stdout
    assert row(call("plan", gpu_prices={"ADA_24": 620_000}), "ADA_24")[2] == "$0.00062", "the setting goes before it"


@pytest.mark.parametrize("price", [None, [], {}, "1.1", {"serverless": None}, {"serverless": "1.1"}, {"serverless": -1},
                                   {"serverless": True}, {"serverless": 1e9}])  # fmt: skip
def test_an_invalid_price_counts_as_none(call: Call, runpod: Management, price: Any) -> None:
    garbage = {"gpus": [{"id": "NVIDIA GeForce RTX 4090", "pool": "ADA_24", "price": price}]}
    runpod.faults.append(Fault("GET", instead=(200, garbage, {}), path="catalog"))
    result = call("plan")
    assert row(result, "ADA_24")[2] == "$0.00031"
    assert "no price for ADA_24" in result.stdout


@pytest.mark.parametrize(("status", "body"), [
    (200, "<html>"), (200, {}), (200, {"gpus": None}), (200, {"gpus": [7]}), (200, {"gpus": [{"name": "RTX"}]}),
    (200, {"gpus": {"id": "x"}}), (500, {}), (403, {}),
])  # fmt: skip
def test_without_a_catalogue_a_plan_warns_and_apply_changes_nothing(
    call: Call, runpod: Management, status: int, body: Any
) -> None:
    key = runpod.add(gpu={"pools": ["ADA_24", "AMPERE_16"], "excludedTypes": ["NVIDIA RTX A4500"]})
    runpod.calls.clear()
    runpod.faults += [Fault("GET", instead=(status, body, {}), path="catalog") for _ in range(2)]
    plan, apply = call("plan"), call("apply")
    assert (plan.exit_code, apply.exit_code) == (0, 1)
    assert "! RunPod's catalogue of GPUs cannot be read, so unknown GPUs are not excluded. RunPod " in plan.stdout
    assert "Nothing was changed." in apply.stderr
    assert runpod.writes() == []
    assert runpod.endpoints[key]["gpu"]["excludedTypes"] == ["NVIDIA RTX A4500"]


@pytest.mark.parametrize("row_", [{"pool": ["ADA_24"]}, {"pool": {}}, {"pool": 7}, {"price": 3}, {}])
def test_invalid_rows_of_the_catalogue_are_ignored(call: Call, runpod: Management, row_: Any) -> None:
    rows = [*runpod.gpus, {"id": "NVIDIA X1", **row_}]
    runpod.faults.append(Fault("GET", instead=(200, {"gpus": rows}, {}), path="catalog"))
    result = call("plan")
    assert (result.exit_code, "!" in result.stdout) == (0, False)


def test_other_endpoints_count_against_the_limit(call: Call, runpod: Management, applied: str) -> None:
    runpod.worker_limit = 12
    assert "!" not in call("plan").stdout
    runpod.add(name="other", workers={"min": 0, "max": 9, "idleTimeout": 5})
    assert "!" not in call("plan").stdout, "the other one got the two that were left"
    runpod.endpoints[applied]["workers"]["max"] = 2  # now the console gives seven of ours to the other one
    runpod.endpoints[max(runpod.endpoints)]["workers"]["max"] = 9
    result = call("apply")
    assert "! max_workers is 10, but the account's limit leaves 3 for this endpoint" in result.stdout
    assert "Max Workers  10    3" in result.stderr


@pytest.mark.parametrize("answer", [(403, {}, {}), (200, [], {}), (200, {"serverlessWorkers": 5}, {}),
                                    (200, {"serverlessWorkers": {"limit": "5"}}, {})])  # fmt: skip
def test_limits_that_cannot_be_read_are_reported_and_prevent_nothing(
    call: Call, runpod: Management, answer: Any
) -> None:
    runpod.faults.append(Fault("GET", instead=answer, path="limits"))
    result = call("apply")
    assert result.exit_code == 0, result.output
    assert "! The account's limit of workers cannot be read. RunPod " in result.stdout


def test_what_runpod_accepted_is_read_after_a_change(call: Call, runpod: Management, applied: str) -> None:
    runpod.endpoints[applied]["workers"]["max"] = 1
    runpod.worker_limit = 4
    result = call("apply")
    assert [call[:2] for call in runpod.calls[-2:]] == [(m, f"/v2/serverless/{applied}") for m in ("PATCH", "GET")]
    assert (result.exit_code, "Max Workers  10    4" in result.stderr) == (1, True)


@pytest.mark.parametrize(("method", "done"), [("POST", "created"), ("PATCH", "changed")])
def test_a_write_that_cannot_be_read_back_is_reported(call: Call, runpod: Management, method: str, done: str) -> None:
    if method == "PATCH":
        runpod.add()
    runpod.faults.append(Fault("GET", instead=(500, {}, {}), path="/serverless/ep"))
    result = call("apply")
    (key,) = runpod.endpoints
    assert result.exit_code == 1
    assert f"The endpoint {key} was {done}, but reading it failed: RunPod answered with status 500" in result.stderr


# --- apply ---


def test_apply_creates_once_and_then_changes_nothing(call: Call, runpod: Management, file: Path) -> None:
    first, second = call("apply"), call("apply")
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    (key,) = runpod.endpoints
    assert f"Endpoint reelay ({key}) was created. Set for the gateway: RUNPOD_ENDPOINT_ID={key}\n" in first.stdout
    assert f"Endpoint reelay ({key}) is as wanted; nothing was changed.\n" in second.stdout
    assert runpod.writes() == [("POST", "/v2/serverless", dict(load(file).body))]


def test_apply_sends_what_differs_and_no_more(call: Call, runpod: Management, applied: str) -> None:
    runpod.endpoints[applied]["workers"]["max"] = 0
    runpod.endpoints[applied]["image"] = "acme/reelay-worker:0.0.9"
    runpod.endpoints[applied]["dataCenterIds"] = ["EU-RO-1"]
    result = call("apply")
    assert result.exit_code == 0, result.output
    body = {"image": IMAGE, "workers": {"min": 0, "max": 10, "idleTimeout": 300}}
    assert runpod.writes() == [("PATCH", f"/v2/serverless/{applied}", body)]
    assert f"Endpoint reelay ({applied}): 2 fields changed." in result.stdout
    assert runpod.endpoints[applied]["dataCenterIds"] == ["EU-RO-1"]
    assert call("plan", "--check").exit_code == 0


def test_an_endpoint_made_by_hand_becomes_the_wanted_one(call: Call, runpod: Management) -> None:
    """With everything that a page allows and that must not stand beside what we want."""
    key = runpod.add(
        gpu={"pools": ["ADA_48_PRO"], "excludedTypes": ["NVIDIA L40"], "allowedCudaVersions": ["12.8"]},
        scaling={"type": "REQUEST_COUNT", "requestCount": 4},
        env={"HF_TOKEN": "hf_abcdef"},
    )
    runpod.calls.clear()
    assert call("apply").exit_code == 0
    assert [method for method, _, _ in runpod.writes()] == ["PATCH"]
    endpoint = runpod.endpoints[key]
    assert endpoint["gpu"] == {
        "pools": ["ADA_24", "AMPERE_16", "AMPERE_24"],
        "excludedTypes": [],
        "count": 1,
        "allowedCudaVersions": [],
        "minCudaVersion": "12.2",
    }
    assert endpoint["workers"]["idleTimeout"] == 300
    assert endpoint["env"] == {"WORKER_MODE": "runpod", "LOG_LEVEL": "INFO"}
    assert call("plan", "--check").exit_code == 0


def test_another_image_is_deployed_without_a_change_of_the_file(call: Call, runpod: Management, applied: str) -> None:
    assert call("apply", "--image", "acme/reelay-worker:0.2.0").exit_code == 0
    assert runpod.writes() == [("PATCH", f"/v2/serverless/{applied}", {"image": "acme/reelay-worker:0.2.0"})]


def test_what_runpod_did_not_take_is_reported(call: Call, runpod: Management) -> None:
    runpod.worker_limit = 5
    result = call("apply")
    assert result.exit_code == 1
    assert "! max_workers is 10, but the account's limit leaves 5 for this endpoint" in result.stdout
    assert runpod.writes()[0][2]["workers"]["max"] == 10, "it is not lowered in silence"
    assert "was created. Set for the gateway: RUNPOD_ENDPOINT_ID=" in result.stdout
    assert result.stderr.splitlines() == [
        "Error: RunPod kept other values:",
        "Field        Sent  Kept",
        "Max Workers  10    5",
    ]


# --- which endpoint ---


def test_the_id_goes_before_the_name(call: Call, runpod: Management, applied: str) -> None:
    other = runpod.add(name="old name")
    runpod.calls.clear()
    assert call("apply", endpoint_id=other).exit_code == 0
    ((_, path, body),) = runpod.writes()
    assert path == f"/v2/serverless/{other}"
    assert body["name"] == "reelay"


def test_an_id_that_is_none_creates_nothing(call: Call, runpod: Management) -> None:
    result = call("apply", endpoint_id="../x")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: RUNPOD_ENDPOINT_ID=../x is no endpoint of this account. Unset it to look for the name.\n"
    )
    assert runpod.calls == [("GET", "/v2/serverless/..%2Fx", None)]


@pytest.mark.parametrize("command", ["plan", "apply", "status"])
def test_two_of_the_same_name_are_an_error_that_says_so(call: Call, runpod: Management, command: str) -> None:
    first, second = runpod.add(), runpod.add(name="reelay -fb")
    runpod.add(name="reelay-2")
    runpod.calls.clear()
    result = call(command)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: 2 endpoints have the name 'reelay': {first}, {second}. "
        "Set RUNPOD_ENDPOINT_ID to the right one, and delete the others in RunPod's page.\n"
    )
    assert runpod.writes() == []


def test_the_ending_of_names_with_flashboot_is_no_change(call: Call, runpod: Management, applied: str) -> None:
    runpod.endpoints[applied]["name"] = "reelay -fb"
    assert call("plan", "--check").exit_code == 0


@pytest.mark.parametrize(
    ("members", "reported"),
    [
        ({"type": "LOAD_BALANCER"}, "is of type LOAD_BALANCER"),
        ({"cpu": [{"id": "cpu5c", "vcpuCount": 4, "memory": 16}], "gpu": None}, "runs on CPUs"),
    ],
)
def test_what_cannot_be_changed_is_refused(
    call: Call, runpod: Management, members: dict[str, Any], reported: str
) -> None:
    key = runpod.add()
    runpod.endpoints[key] |= members
    runpod.calls.clear()
    result = call("apply")
    assert result.exit_code == 1
    assert f"The endpoint 'reelay' ({key}) {reported}, which cannot be changed" in result.stderr
    assert runpod.writes() == []


# --- when something goes wrong ---


@pytest.mark.parametrize("fault", ["drop", "bad gateway"])
def test_a_lost_answer_to_the_creation_is_looked_for_and_never_sent_again(
    call: Call, runpod: Management, fault: str
) -> None:
    runpod.faults.append(Fault("POST", after_effect=fault))
    result = call("apply")
    assert result.exit_code == 0, result.output
    (key,) = runpod.endpoints
    assert f"RUNPOD_ENDPOINT_ID={key}" in result.stdout
    assert [method for method, _, _ in runpod.calls] == [*LOOK, "POST", "GET", "GET"]


def test_a_creation_that_was_lost_with_its_effect_is_reported(call: Call, runpod: Management) -> None:
    runpod.faults.append(Fault("POST", instead=(503, "", {})))
    result = call("apply")
    assert result.exit_code == 1
    assert "There is no endpoint 'reelay' yet, and it was not sent again" in result.stderr
    assert [method for method, _, _ in runpod.calls] == [*LOOK, "POST", "GET"]


def test_a_lost_creation_that_cannot_be_looked_for_is_reported(call: Call, runpod: Management) -> None:
    runpod.faults.append(Fault("POST", after_effect="drop"))
    looks = [Fault("GET", instead=(200, {"endpoints": []}, {}), path="serverless") for _ in range(2)]
    runpod.faults += [*looks, Fault("GET", instead=(500, {}, {}), path="serverless")]
    result = call("apply")
    assert result.exit_code == 1
    assert "It may have been created; looking for it failed: RunPod answered with status 500" in result.stderr
    assert len(runpod.endpoints) == 1
    assert call("apply").exit_code == 0
    assert len(runpod.endpoints) == 1


def test_a_lost_answer_to_a_change_is_mended_by_doing_it_again(call: Call, runpod: Management, applied: str) -> None:
    runpod.endpoints[applied]["disk"] = 5
    runpod.faults.append(Fault("PATCH", after_effect="drop"))
    result = call("apply")
    assert result.exit_code == 1
    assert "RunPod's answer was lost" in result.stderr
    assert "nothing was changed" in call("apply").stdout


PROBLEM = {"title": "Unprocessable Entity", "status": 422, "detail": "Validation failed.", "errors": ["$.disk: 3"]}


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        ((422, PROBLEM, {}), "RunPod answered with status 422: Unprocessable Entity; Validation failed.; $.disk: 3."),
        ((403, {}, {}), "RunPod answered with status 403: without a reason. The key RUNPOD_API_KEY lacks the permission for endpoints."),
        ((429, {"title": "Too Many Requests", "status": 429, "detail": "limit"}, {"Retry-After": "12"}), "RunPod answered with status 429: Too Many Requests; limit. Try again in 12 s."),
        ((302, "", {"Location": "https://elsewhere.example/"}), "RunPod answered with status 302: without a reason."),
    ],
)  # fmt: skip
def test_a_refusal_is_reported_and_is_final(call: Call, runpod: Management, answer: Any, reported: str) -> None:
    runpod.faults.append(Fault("POST", instead=answer))
    result = call("apply")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {reported}\n"
    assert [method for method, _, _ in runpod.calls] == [*LOOK, "POST"]


@pytest.mark.parametrize(
    "body", ["<html>", {}, {"endpoints": None}, {"endpoints": [3]}, {"endpoints": [{"name": "reelay"}]}]
)
def test_garbage_is_reported(call: Call, runpod: Management, body: Any) -> None:
    runpod.faults.append(Fault("GET", instead=(200, body, {})))
    result = call("apply")
    assert result.exit_code == 1
    assert result.stderr == "Error: RunPod returned an invalid response: it has no endpoints.\n"
    assert runpod.writes() == []


@pytest.mark.parametrize(
    ("changed", "reported"),
    [
        ({"api_key": "rpa_wrong"}, "missing or invalid bearer token. Is RUNPOD_API_KEY right?"),
        ({"api_key": ""}, "RUNPOD_API_KEY is not set"),
        ({"management_base": "https://api.runpod.ai/v2"}, "endpoints are managed on api.runpod.io/v2"),
        ({"management_base": "http://127.0.0.1:9/v2"}, "RunPod cannot be reached: ConnectionError."),
    ],
)
def test_a_wrong_setting_is_reported(call: Call, runpod: Management, changed: dict[str, str], reported: str) -> None:
    result = call("apply", **changed)
    assert result.exit_code == 1
    assert reported in result.stderr
    assert runpod.writes() == []


# --- secrets ---


def test_secrets_are_reported_by_name_only(call: Call, runpod: Management, edit: Edit, applied: str) -> None:
    edit('LOG_LEVEL = "INFO"', 'LOG_LEVEL = "DEBUG"\nHF_TOKEN = "hf_new_value"\nMIRROR = "https://u:pw@m.example"')
    runpod.endpoints[applied]["env"] |= {"HF_TOKEN": "hf_old_value", "OTHER_SECRET": "sesame"}
    plan, apply = call("plan"), call("apply")
    assert row(plan, "env HF_TOKEN")[1:] == ["(hidden)", "(hidden)", "changed"]
    assert row(plan, "env OTHER_SECRET")[1:] == ["—", "(hidden)", "removed"]
    assert row(plan, "env LOG_LEVEL")[1:] == ["DEBUG", "INFO", "changed"]
    assert runpod.endpoints[applied]["env"]["HF_TOKEN"] == "hf_new_value"
    shown = plan.output + apply.output
    assert not any(secret in shown for secret in ("hf_new_value", "hf_old_value", "sesame", "pw@", runpod.key))


def test_a_secret_that_runpod_quotes_is_hidden(call: Call, runpod: Management, edit: Edit) -> None:
    edit('LOG_LEVEL = "INFO"', 'HF_TOKEN = "hf_new_value"')
    said = {"title": "Bad Request", "status": 400, "detail": f"hf_new_value is no token, sent with {runpod.key}"}
    runpod.faults.append(Fault("POST", instead=(400, said, {})))
    assert "(hidden) is no token, sent with (hidden)." in call("apply").stderr


# --- status ---


@pytest.fixture
def jobs(files: FileServer) -> FileServer:
    """The job API's /health of every endpoint that a test makes."""
    for number in range(1, 4):
        files.routes[f"/v2/ep{number:06d}/health"] = Reply(200, json.dumps(HEALTH).encode())
    return files


def test_status_shows_workers_and_queue(call: Call, runpod: Management, applied: str, jobs: FileServer) -> None:
    there = {"id": "w1", "status": "RUNNING", "gpuTypeId": "NVIDIA GeForce RTX 4090", "dataCenterId": "EU-RO-1"}
    starting = {"id": "w2", "status": "INITIALIZING", "gpuTypeId": None, "uptimeSeconds": None, "isStale": False}
    runpod.workers[applied] = [
        {**there, "uptimeSeconds": 61, "isStale": True, "gpuCount": 1},
        {**starting, "gpuCount": 1},
    ]
    for words in ({}, {"endpoint_id": applied}):
        result = call("status", api_base=jobs.url("/v2"), **words)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines() == [
            f"Endpoint reelay ({applied}): 0 to 10 workers, image {IMAGE}",
            "",
            "Jobs     completed 120, failed 2, inProgress 1, inQueue 3, retried 0",
            "Workers  idle 0, initializing 2, ready 1, running 1, throttled 0, unhealthy 0",
            "",
            "Worker  Status        GPU               Where    Up    Release",
            "w1      RUNNING       GeForce RTX 4090  EU-RO-1  61 s  old",
            "w2      INITIALIZING  —                 —        —     current",
        ]
    assert jobs.requests[0].headers["Authorization"] == f"Bearer {runpod.key}"


def test_status_without_an_endpoint_says_what_to_do(call: Call) -> None:
    result = call("status")
    assert result.exit_code == 1
    assert result.stderr == "Error: There is no endpoint 'reelay'; `apply` creates it.\n"


@pytest.mark.parametrize("body", [b"[]", b'{"jobs": {}}', b'{"jobs": {"inQueue": "3"}, "workers": {}}'])
def test_status_of_a_queue_that_returns_garbage(call: Call, applied: str, files: FileServer, body: bytes) -> None:
    files.routes[f"/v2/{applied}/health"] = Reply(200, body)
    result = call("status", api_base=files.url("/v2"))
    assert result.exit_code == 1
    assert result.stderr == "Error: RunPod returned an invalid response about the queue.\n"


@pytest.mark.parametrize(
    ("limit", "jobs", "workers", "words"),
    [
        (10, {"inQueue": 3}, {"running": 1, "throttled": 2}, []),
        (10, {"inQueue": 0}, {"throttled": 2}, []),
        (10, {"inQueue": 3}, {"throttled": 2}, ["throttled"]),
        (0, {"inQueue": 3}, {}, ["Max workers is 0"]),
        (10, {"inQueue": 1}, {"unhealthy": 1}, ["Unhealthy workers crash"]),
        (0, {"inQueue": 1}, {"unhealthy": 1, "throttled": 1}, ["Max workers is 0", "Unhealthy", "throttled"]),
    ],
)
def test_what_the_numbers_mean(limit: int, jobs: dict[str, int], workers: dict[str, int], words: list[str]) -> None:
    reported = list(hints({"workers": {"max": limit}}, {"jobs": jobs, "workers": workers}))
    assert len(reported) == len(words)
    assert all(word in line for word, line in zip(words, reported, strict=True))


# --- as an operator types it ---


@pytest.fixture
def flask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`flask --app gateway …` in the folder of the test's file, with the environment that is given and no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {})

    def run(*words: str, **environ: str) -> Result:
        os.environ |= environ
        return CliRunner().invoke(flask_cli, ["--app", "gateway", *words])

    return run


@pytest.mark.parametrize("more", [{}, {"PROVIDERS": "runpod"}], ids=["no gateway", "a gateway without its endpoint"])
def test_a_key_is_all_that_the_commands_need(flask: Call, file: Path, runpod: Management, more: dict[str, str]) -> None:
    """Also where the gateway's settings are wrong until there is an endpoint; the environment's proxies see nothing."""
    environ = {"RUNPOD_API_KEY": runpod.key, "RUNPOD_MANAGEMENT_BASE": runpod.base, "HTTP_PROXY": "http://127.0.0.1:9"}
    result = flask("runpod", "apply", **environ, **more)
    assert result.exit_code == 0, result.output
    assert len(runpod.endpoints) == 1
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("words", [["keys", "list"], ["run"], ["routes"]])
def test_all_other_commands_still_tell_wrong_settings(flask: Call, words: list[str]) -> None:
    result = flask(*words)
    assert result.exit_code == 1
    assert result.stderr == "Error: Wrong settings: PROVIDERS: must be set, for example PROVIDERS=local.\n"


def test_a_wrong_setting_of_the_commands_is_reported(flask: Call) -> None:
    result = flask("runpod", "plan", RUNPOD_GPU_PRICES="ADA_24=x")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Wrong settings: RUNPOD_GPU_PRICES: ADA_24: must be")


@pytest.mark.parametrize("words", [["plan", "--colour"], ["aply"]])
def test_a_misspelt_word_is_another_error(flask: Call, words: list[str]) -> None:
    result = flask("runpod", *words, RUNPOD_API_KEY="rpa_x")
    assert result.exit_code == 2
    assert "No such" in result.stderr
