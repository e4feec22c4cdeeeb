"""Uses the client of openapi-python-client, every response by its type."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx
from reelay_client import AuthenticatedClient
from reelay_client.api.files import upload_file
from reelay_client.api.jobs import cancel_job, get_job, list_jobs
from reelay_client.api.video import img2vid
from reelay_client.models import Img2VidParams, Job, JobErrorCode, JobList, JobStatus, Problem, Upload, ValidParams
from reelay_client.types import File, Response

URL, KEY, PHOTO = os.environ["GATEWAY_URL"], os.environ["API_KEY"], Path(os.environ["PHOTO"])


def client(key: str) -> AuthenticatedClient:
    return AuthenticatedClient(
        base_url=URL,
        token=key,
        prefix="",
        auth_header_name="X-API-Key",
        raise_on_unexpected_status=True,
        timeout=httpx.Timeout(90),
    )


def problem(response: Response[object], status: HTTPStatus, code: str) -> Problem:
    assert response.status_code is status, response
    assert isinstance(response.parsed, Problem)
    assert response.parsed.code == code, response.parsed
    return response.parsed


def upload(api: AuthenticatedClient) -> str:
    with PHOTO.open("rb") as photo:
        uploaded = upload_file.sync(client=api, body=File(payload=photo, file_name=PHOTO.name))
    assert isinstance(uploaded, Upload), uploaded
    return uploaded.url


def finish(api: AuthenticatedClient, url: str) -> None:
    """Submit a job, wait for it, download its video and find it in the list."""
    params = Img2VidParams(url_image=url, duration=0.5, reference="python")
    checked = img2vid.sync(client=api, body=params, validate=True)
    assert isinstance(checked, ValidParams), checked
    job = img2vid.sync(client=api, body=params)
    assert isinstance(job, Job), job
    while job.status in {JobStatus.QUEUED, JobStatus.RUNNING}:
        job = get_job.sync(job.job_id, client=api, wait=30, strict=True)
        assert isinstance(job, Job), job
    assert job.status is JobStatus.COMPLETED, job
    assert datetime(2026, 1, 1, tzinfo=UTC) < job.created_at <= job.started_at <= job.finished_at < job.expires_at
    output = job.outputs["video"]
    assert output.url == job.video_url
    assert len(httpx.get(job.video_url).content) == output.size_bytes
    listed = list_jobs.sync(client=api, reference="python")
    assert isinstance(listed, JobList), listed
    assert [found.job_id for found in listed.jobs] == [job.job_id]


def cancel(api: AuthenticatedClient, url: str) -> None:
    job = img2vid.sync(client=api, body=Img2VidParams(url_image=url, duration=60))
    assert isinstance(job, Job), job
    cancelled = cancel_job.sync(job.job_id, client=api)
    assert isinstance(cancelled, Job), cancelled
    assert cancelled.status is JobStatus.CANCELLED


def errors(api: AuthenticatedClient, url: str) -> None:
    wrong = img2vid.sync_detailed(client=api, body=Img2VidParams(url_image=url, duration=-1))
    assert "duration" in problem(wrong, HTTPStatus.UNPROCESSABLE_ENTITY, "validation_failed").errors
    broken = Img2VidParams(url_image=f"{url}x")
    failed = img2vid.sync_detailed(client=api, body=broken, wait=60, strict=True)
    shown = problem(failed, HTTPStatus.UNPROCESSABLE_ENTITY, "asset_not_found").job
    assert shown.error.code is JobErrorCode.ASSET_NOT_FOUND, shown
    problem(get_job.sync_detailed("job_none", client=api), HTTPStatus.NOT_FOUND, "not_found")
    with client("wrong") as stranger:
        problem(list_jobs.sync_detailed(client=stranger), HTTPStatus.UNAUTHORIZED, "unauthorized")


with client(KEY) as api:
    url = upload(api)
    finish(api, url)
    cancel(api, url)
    errors(api, url)
