"""Metrics count every kind of end once, and the alerts use existing names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.db.rental_store import insert
from gateway.domain import webhooks
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.prices import Price
from gateway.domain.rentals import Rental, Stage
from gateway.providers.base import NotYet, Phase, Remote, Unavailable
from tests.conftest import ROOT
from tests.gateway.conftest import CLAIM, Gateway, Wire
from tests.servers import FileServer, Reply
from wire.envelope import Event
from wire.errors import AssetNotFound

RULES = ROOT / "ops" / "alerts.yml"


def value(services: Gateway, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(services.metrics.text().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def newest(services: Gateway, job: Job) -> Attempt:
    return services.store.attempts(job.id)[-1]


def test_a_job_that_completes_by_events(services: Gateway) -> None:
    services.provider.default["price"] = Price(1_000_000)
    job = services.add_job(operation="img2vid")
    services.turn()
    attempt = newest(services, job)
    services.clock.advance(4_000)
    services.report(attempt.id, "started")
    services.clock.advance(2_000)
    services.put_output(attempt.id, b"12345")
    stats: Mapping[str, Any] = {"size_bytes": 5, "duration_s": 2.5, "encoder": "libx264", "device": "cpu"}
    for _ in range(2):  # the worker may repeat it
        services.reports.take(
            attempt.id,
            Event("completed", CLAIM, progress=1.0, result={"outputs": {"video": {"size_bytes": 5}}, "stats": stats}),
        )
    about = {"operation": "img2vid"}
    assert value(services, "reelay_jobs_ended_total", status="completed", provider="fake", **about) == 1
    assert value(services, "reelay_job_queue_seconds_sum", **about) == 4
    assert value(services, "reelay_job_run_seconds_sum", **about) == 2
    assert value(services, "reelay_provisioning_seconds_sum", provider="fake") == 4
    assert value(services, "reelay_attempts_ended_total", provider="fake", state="done", code="") == 1
    assert value(services, "reelay_cost_usd_total", provider="fake") == pytest.approx(0.002)
    assert value(services, "reelay_encodes_total", provider="fake", encoder="libx264", device="cpu") == 1
    assert value(services, "reelay_output_bytes_sum", **about) == 5
    assert value(services, "reelay_video_seconds_total", **about) == 2.5


def test_provisioning_includes_the_boot_of_a_machine(services: Gateway) -> None:
    services.provider.script("submit", *[NotYet("a machine is booting", 2.0)] * 8)
    job = services.add_job()
    for _ in range(9):
        services.turn()
        services.clock.advance(12_000)  # the longest pause
    services.reports.take(newest(services, job).id, Event("started", CLAIM))
    assert value(services, "reelay_provisioning_seconds_sum", provider="fake") == 9 * 12


def test_failed_and_cancelled_jobs_are_counted_once(services: Gateway) -> None:
    services.add_job(attempt=AttemptState.SUBMITTED)
    services.provider.default["poll"] = Remote(Phase.FAILED, error=AssetNotFound("video: 404"))
    services.turn()
    assert value(services, "reelay_attempts_ended_total", provider="fake", code="asset_not_found") == 1
    services.provider.default["submit"] = NotYet("busy", 1.0)
    late, unwanted = services.add_job(queue_limit_s=60), services.add_job(queue_limit_s=60)
    services.turn()
    for _ in range(2):
        services.jobs.cancel(unwanted.id, unwanted.key_id)
    services.clock.advance(60_001)
    services.turn()
    services.turn()
    found = services.store.job(late.id)
    assert found is not None and found.error_code == "queue_timeout"
    assert value(services, "reelay_jobs_ended_total", status="failed", provider="fake") == 2
    assert value(services, "reelay_jobs_ended_total", status="cancelled") == 1


def test_a_cancelled_attempt_is_counted_with_its_cost(services: Gateway) -> None:
    services.provider.default["price"] = Price(1_000_000)
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    claimed_at = newest(services, job).claimed_at or 0
    services.clock.advance(3_000)
    services.jobs.cancel(job.id, job.key_id)
    services.turn()
    assert value(services, "reelay_attempts_ended_total", provider="fake", state="superseded") == 1
    spent = (services.clock.now_ms() - claimed_at) / 1e6
    assert value(services, "reelay_cost_usd_total", provider="fake") == pytest.approx(spent)
    assert value(services, "reelay_jobs_ended_total", status="cancelled", provider="fake") == 1


def test_gauges_of_unfinished_jobs(services: Gateway) -> None:
    names = ("jobs", "jobs_oldest_seconds", "jobs_past_limits", "webhooks_waiting", "webhooks_oldest_seconds")
    assert [value(services, f"reelay_{name}") for name in names] == [0] * 5
    services.add_job(queue_limit_s=60, timeout_s=60)
    services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, queue_limit_s=6_000)
    services.clock.advance(500_000)
    assert value(services, "reelay_jobs", status="queued") == 1
    assert value(services, "reelay_jobs", status="running") == 1
    assert value(services, "reelay_jobs_oldest_seconds") == 500
    assert value(services, "reelay_jobs_past_limits") == 1


def test_webhooks_by_outcome_and_those_that_wait(wire: Wire, files: FileServer) -> None:
    services = wire(webhook_allow_origins=(files.origin,))
    for path, status in {"/takes": 204, "/busy": 503, "/gone": 410}.items():
        files.routes[path] = Reply(status)
        job = services.add_job(webhook_url=files.url(path))
        services.jobs.cancel(job.id, job.key_id)
    assert value(services, "reelay_webhooks_waiting") == 3
    for _ in range(2):  # two at a time go to one host
        services.turn()
    tried = {state: value(services, "reelay_webhook_tries_total", state=state) for state in webhooks.WebhookState}
    assert tried == {"succeeded": 1, "pending": 1, "failed": 1}
    services.clock.advance(2_000)
    assert value(services, "reelay_webhooks_waiting") == 1
    assert value(services, "reelay_webhooks_oldest_seconds") == 2


def test_rentals_cost_now_and_today_and_the_oldest_destroy(services: Gateway) -> None:
    names = ("usd_per_hour", "today_usd", "destroying_seconds")
    shown = lambda: [value(services, f"reelay_rentals_{name}") for name in names]  # noqa: E731
    assert shown() == [0, 0, 0]
    now = services.clock.now_ms()
    today = now - now % 86_400_000
    hour = 3_600_000
    services.clock.advance(today + 10 * hour - now)
    made = [
        (Stage.IDLE, {"sent_at": today - 5 * hour}),
        (Stage.DESTROYING, {"sent_at": today + 8 * hour, "stage_at": today + 9 * hour}),
        (Stage.GONE, {"sent_at": today - hour, "ended_at": today + hour}),
        (Stage.GONE, {"sent_at": today - 9 * hour, "ended_at": today - hour}),
        (Stage.INTENT, {}),
        (Stage.NO_MACHINE, {"sent_at": today, "ended_at": today + hour}),
    ]
    for at, (stage, changes) in enumerate(made):
        row = Rental(f"rent_{at}", "vast", stage, "label", today, today, today, nano_per_s=100_000)
        with services.store.transaction() as tx:
            insert(tx, replace(row, **changes))
    assert shown() == [pytest.approx(0.72), pytest.approx((10 + 2 + 1) * 0.36), 3600]


def test_providers_and_their_workers(services: Gateway) -> None:
    services.provider.default["workers"] = {"running": 2, "idle": 0}
    assert value(services, "reelay_provider_up", provider="fake") == 1
    assert value(services, "reelay_provider_workers", provider="fake", state="running") == 2
    services.provider.default["workers"] = Unavailable("down")
    assert value(services, "reelay_provider_up", provider="fake") == 0
    assert value(services, "reelay_provider_workers", provider="fake") is None


def test_metrics_need_a_key_and_accept_it_as_prometheus_sends_it(client: Any, key: Any) -> None:
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {key.secret}"})
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    assert b"reelay_jobs_ended_total" in answer.data
    assert client.get("/metrics", headers={"X-API-Key": key.secret}).status_code == 200


def test_the_alerts_name_metrics_that_exist(services: Gateway) -> None:
    services.provider.default["workers"] = {"running": 1}
    shown = {family.name for family in text_string_to_metric_families(services.metrics.text().decode())}
    for name in set(re.findall(r"reelay_\w+", re.sub(r"#.*", "", RULES.read_text()))) - {"reelay_attempts_ended_total"}:
        assert re.sub(r"_(total|bucket)$", "", name) in shown, name


@pytest.mark.skipif(
    shutil.which("promtool") is None and not os.environ.get("CI"), reason="promtool (Debian: prometheus) is missing"
)
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")):
        done = subprocess.run(["promtool", *arguments], cwd=RULES.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
