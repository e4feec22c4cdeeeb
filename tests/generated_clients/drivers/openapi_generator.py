"""Uses the Python client of openapi-generator, every response by its type."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import urllib3
from reelay_client import (
    ApiClient,
    Configuration,
    FilesApi,
    Img2VidParams,
    Job,
    JobsApi,
    Problem,
    ValidParams,
    VideoApi,
)
from reelay_client.exceptions import ApiException

URL, KEY, PHOTO = os.environ["GATEWAY_URL"], os.environ["API_KEY"], Path(os.environ["PHOTO"])
LIMIT_S = 90


def client(key: str) -> ApiClient:
    return ApiClient(Configuration(host=URL, api_key={"apiKey": key}))


def problem(call: Callable[[], object], status: int, code: str) -> Problem:
    try:
        raise AssertionError(call())
    except ApiException as error:
        assert error.status == status, error
        assert isinstance(error.data, Problem)
        assert error.data.code == code, error
        return error.data


def finish(jobs: JobsApi, video: VideoApi, url: str) -> None:
    """Submit a job, wait for it, download its video and find it in the list."""
    params = Img2VidParams(url_image=url, duration=0.5, reference="generator")
    checked = video.img2vid(params, validate=True, _request_timeout=LIMIT_S)
    assert isinstance(checked.actual_instance, ValidParams), checked
    job = video.img2vid(params, _request_timeout=LIMIT_S)
    assert isinstance(job, Job), job
    while job.status in {"queued", "running"}:
        job = jobs.get_job(job.job_id, wait=30, strict=True, _request_timeout=LIMIT_S)
    assert job.status == "completed", job
    assert datetime(2026, 1, 1, tzinfo=UTC) < job.created_at <= job.started_at <= job.finished_at < job.expires_at
    output = job.outputs["video"]
    assert output.url == job.video_url
    assert len(urllib3.request("GET", job.video_url, timeout=LIMIT_S).data) == output.size_bytes
    listed = jobs.list_jobs(reference="generator", _request_timeout=LIMIT_S)
    assert [found.job_id for found in listed.jobs] == [job.job_id]


def cancel(jobs: JobsApi, video: VideoApi, url: str) -> None:
    job = video.img2vid(Img2VidParams(url_image=url, duration=60), _request_timeout=LIMIT_S)
    assert jobs.cancel_job(job.job_id, _request_timeout=LIMIT_S).status == "cancelled"
    cancelled = jobs.get_job(job.job_id, _request_timeout=LIMIT_S)
    assert cancelled.status == "cancelled", cancelled


def errors(jobs: JobsApi, video: VideoApi, url: str) -> None:
    wrong = Img2VidParams.model_construct(url_image=url, duration=-1)  # the client's own check left out
    assert "duration" in problem(lambda: video.img2vid(wrong), 422, "validation_failed").errors
    broken = Img2VidParams(url_image=f"{url}x")
    shown = problem(lambda: video.img2vid(broken, wait=60, strict=True), 422, "asset_not_found").job
    assert shown.error.code == "asset_not_found", shown
    problem(lambda: jobs.get_job("job_none"), 404, "not_found")
    with client("wrong") as stranger:
        problem(lambda: JobsApi(stranger).list_jobs(), 401, "unauthorized")


with client(KEY) as api:
    jobs, video = JobsApi(api), VideoApi(api)
    url = FilesApi(api).upload_file(file=str(PHOTO), _request_timeout=LIMIT_S).url
    finish(jobs, video, url)
    cancel(jobs, video, url)
    errors(jobs, video, url)
