"""Expired jobs, outputs and uploads as clients see them."""

from __future__ import annotations

from flask.testing import FlaskClient

from common.clock import to_rfc3339
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from tests.gateway.api.conftest import VIDEO, Worker, assert_problem, local
from tests.gateway.conftest import FixedClock, Gateway, JobFactory, Wire
from tests.gateway.upkeep.test_janitor import clean
from tests.outputs import video_key

DAY_MS = 24 * 3600 * 1000


def test_a_completed_job_shows_its_outputs_until_they_expire(
    services: Gateway, api: FlaskClient, worker: Worker
) -> None:
    worker.finish()
    path = f"/jobs/{worker.job_id}"
    before = api.get(path).get_json()
    assert before["expiresAt"] == to_rfc3339(services.clock.now_ms() + 7 * DAY_MS)
    services.clock.advance(7 * DAY_MS - 1)
    assert "video_url" in api.get(path).get_json()
    services.clock.advance(1)
    response = api.get(path)
    assert response.status_code == 200
    assert response.get_json() == {
        name: value for name, value in before.items() if name not in {"video_url", "outputs"}
    }
    assert api.get("/jobs").get_json()["jobs"] == [response.get_json()]


def test_a_job_without_outputs_has_no_expiry(api: FlaskClient, job_factory: JobFactory) -> None:
    for status in set(JobStatus) - {JobStatus.COMPLETED}:
        job = job_factory(status=status, started_at=1, finished_at=2, error_code="job_timeout", error_message="Long.")
        assert "expiresAt" not in api.get(f"/jobs/{job.id}").get_json()


def test_an_expired_video_is_not_found(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    worker.finish()
    services.clock.advance(7 * DAY_MS - 1)
    url = local(api.get(f"/jobs/{worker.job_id}").get_json()["video_url"])
    assert worker.client.get(url, buffered=True).data == VIDEO
    services.clock.advance(1)
    clean(services)
    assert_problem(worker.client.get(url, buffered=True), 404, "not_found")
    assert_problem(worker.client.get(url, headers={"Range": "bytes=5-"}, buffered=True), 404, "not_found")
    assert services.thread_limits.transfers.take("key", "192.0.2.1")


def test_a_job_that_was_removed_is_not_found(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    worker.finish()
    services.clock.advance(30 * DAY_MS)
    clean(services)
    path = f"/jobs/{worker.job_id}"
    for response in (api.get(path), api.get(f"{path}?wait=5"), api.delete(path)):
        assert_problem(response, 404, "not_found")
    assert api.get("/jobs").get_json() == {"jobs": [], "nextCursor": None}
    assert api.get(f"/jobs?cursor={worker.job_id}").get_json()["jobs"] == []
    assert_problem(worker.put(), 403, "signature_invalid")


def test_a_download_outlives_its_file(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    worker.finish()
    services.clock.advance(7 * DAY_MS - 1)
    response = worker.client.get(local(api.get(f"/jobs/{worker.job_id}").get_json()["video_url"]), buffered=False)
    services.clock.advance(1)
    clean(services)
    assert list(services.storage.keys()) == []
    assert response.data == VIDEO
    response.close()


def test_late_uploads_of_a_superseded_attempt_are_refused_or_removed(
    api: FlaskClient, worker: Worker, services: Gateway
) -> None:
    late = services.store.attempt(worker.attempt_id)
    assert worker.report("started").status_code == 200
    services.clock.advance(31_000)
    services.turn()
    assert services.store.attempt(late.id).state is AttemptState.FAILED  # type: ignore[union-attr]
    services.clock.advance(5_000)
    services.turn()
    assert services.store.job(worker.job_id).attempt_id != late.id  # type: ignore[union-attr]
    for response in (worker.put(), worker.report("progress", progress=0.5), worker.complete()):
        assert_problem(response, 409, "attempt_superseded")
    services.storage.write(video_key(late), [VIDEO], len(VIDEO))  # between the last look and the rename
    assert "video_url" not in api.get(f"/jobs/{worker.job_id}").get_json()
    clean(services)
    assert list(services.storage.keys()) == []


def test_a_longer_retention_applies_immediately(
    api: FlaskClient, app: object, worker: Worker, clock: FixedClock, wire: Wire
) -> None:
    worker.finish()
    clock.advance(8 * DAY_MS)
    app.extensions["reelay"] = wire(output_retention_seconds=9 * 86_400)  # type: ignore[attr-defined]
    assert "video_url" in api.get(f"/jobs/{worker.job_id}").get_json()
