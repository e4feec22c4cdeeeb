"""Every response of a real gateway to requests of schemathesis is documented in one of its OpenAPI documents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ffmpeg_ops.operation import OPERATIONS
from gateway.dispatch.delivery import EVENTS_PURPOSE
from tests.conftest import ROOT
from tests.gateway.api.live import API_KEY, Live, live

TOOL = Path(sys.executable).with_name("schemathesis")
# `deterministic`: every run makes the same requests.
CONFIG = """
hooks = {hooks}
base-url = {origin}
continue-on-failure = true
request-timeout = 20
warnings = false

{parts}

[generation]
with-security-parameters = false
deterministic = true
no-shrink = true
database = "none"
max-examples = {examples}

[phases]
stateful.enabled = false

[checks]
# The server may be unready or full; both are documented.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503, 507]
# Data that the schema allows may still not be a URL, not be media, or reuse an Idempotency-Key.
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 411, 413, 415, 416, 422]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A gateway without a dispatcher."""
    limits = dict.fromkeys(("RATE_LIMIT_PER_KEY", "RATE_LIMIT_PER_ADDRESS"), "0")
    with live(
        tmp_path_factory.mktemp("gateway") / "data",
        RUN_DISPATCHER="false",
        MAX_WAIT_SECONDS="0",
        MAX_JOBS_PER_KEY="1000000",
        **limits,
    ) as running:
        yield running


class Run:
    """Runs of schemathesis against `server`; fails the test when a response is not documented."""

    def __init__(self, server: Live, folder: Path, examples: int, parts: str, phases: str) -> None:
        self.statuses: dict[str, dict[int, int]] = {}
        for document in ("openapi.json", "openapi-worker.json"):
            self.statuses |= _run(server, folder, document, examples, parts, phases)

    @property
    def calls(self) -> int:
        return sum(sum(by_status.values()) for by_status in self.statuses.values())

    @property
    def accepted(self) -> set[str]:
        """The operations that succeeded at least once."""
        return {label for label, by_status in self.statuses.items() if {200, 201, 202} & set(by_status)}


def _run(
    server: Live, folder: Path, document: str, examples: int, parts: str, phases: str
) -> dict[str, dict[int, int]]:
    """The number of responses by operation and status."""
    config, log = folder / f"{document}.toml", folder / f"{document}.ndjson"
    hooks = json.dumps(str(Path(__file__).with_name("schemathesis_hooks.py")))
    config.write_text(CONFIG.format(hooks=hooks, origin=json.dumps(server.origin), parts=parts, examples=examples))
    options = ["--phases", phases, "--report-ndjson-path", log]
    done = subprocess.run(
        [TOOL, "--config-file", config, "run", *options, f"{server.origin}/{document}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # for the hooks
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    return _statuses(log)


def _statuses(log: Path) -> dict[str, dict[int, int]]:
    """The number of responses by operation and status."""
    found: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for line in log.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for interaction in recorder.get("interactions", {}).values():
            assert interaction["response"], (recorder["label"], interaction["request"])
            found[recorder["label"]][interaction["response"]["status_code"]] += 1
    return {label: dict(by_status) for label, by_status in found.items()}


def headers(**values: str) -> str:
    return "[headers]\n" + "".join(
        f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in values.items()
    )


def known(server: Live) -> str:
    """Parameters of a running job and its attempt, with valid tokens."""
    job, attempt = server.claimed_job()
    token = server.services.signer.sign(EVENTS_PURPOSE, [attempt.id, attempt.deadline])
    signature = parse_qs(urlsplit(server.upload_path(attempt)).query)["signature"][0]
    return headers(X_API_Key=API_KEY) + PARAMETERS.format(
        job=job.id, attempt=attempt.id, token=token, signature=signature
    )


OUTPUT = "/files/outputs/{job_id}/{attempt_id}/{file_name}"
EVERYTHING_ACCEPTED = {
    *(f"POST /video/{name}" for name in OPERATIONS),
    "POST /files",
    f"PUT {OUTPUT}",
    "GET /jobs",
    "GET /jobs/{job_id}",
    "DELETE /jobs/{job_id}",
    "GET /health",
    "GET /metrics",
}
# The other methods of a file's path are in the other document.
PARAMETERS = """
[[operations]]
include-path-regex = "^/files/"
checks.unsupported_method.enabled = false
checks.allow_header_conformance.enabled = false

[[operations]]
include-path-regex = "^/jobs/"
parameters = {{ job_id = "{job}" }}

[[operations]]
include-path-regex = "^/events/"
parameters = {{ attempt_id = "{attempt}" }}
headers = {{ Authorization = "Bearer {token}" }}

[[operations]]
include-name = "PUT /files/outputs/{{job_id}}/{{attempt_id}}/{{file_name}}"
parameters = {{ job_id = "{job}", attempt_id = "{attempt}", file_name = "video.mp4", signature = "{signature}" }}
"""


@pytest.mark.slow
def test_responses_are_documented(server: Live, tmp_path: Path) -> None:
    run = Run(server, tmp_path, 5, known(server), "examples,fuzzing")
    assert run.calls > 40


@pytest.mark.slow
def test_responses_are_documented_at_the_edges_of_the_schema(server: Live, tmp_path: Path) -> None:
    run = Run(server, tmp_path, 20, known(server), "coverage")
    assert run.accepted >= EVERYTHING_ACCEPTED
    assert run.calls > 800


@pytest.mark.slow
def test_responses_are_documented_for_unknown_ids(server: Live, tmp_path: Path) -> None:
    run = Run(server, tmp_path, 20, headers(X_API_Key=API_KEY), "fuzzing")
    assert run.calls > 150
    assert set(run.statuses["POST /events/{attempt_id}"]) == {401}
