"""`/jobs`: read, list and cancel jobs, and send their webhooks again."""

from __future__ import annotations

from typing import Any

from flask import Response, g
from flask.views import MethodView
from marshmallow import ValidationError, fields, validate, validates_schema

from ffmpeg_ops.operation import OPERATIONS
from gateway.api import labels
from gateway.api.blueprint import Blueprint
from gateway.api.job_document import JobSchema, JobView
from gateway.api.job_response import JobListSchema, JobQuerySchema, WaitSchema, job_response, jobs_response
from gateway.api.openapi import examples, headers, paths
from gateway.domain.jobs import JobStatus
from gateway.errors import JobCancelled, JobFinished, JobNotFinished, NotFound, NoWebhook
from gateway.wiring import services

MAX_IDS = 100


class ListSchema(WaitSchema):
    id = fields.List(
        fields.String(validate=[validate.Length(1, 40), labels.PRINTABLE]),
        validate=validate.Length(1, MAX_IDS, error=f"At most {MAX_IDS} jobs may be read at once."),
        metadata={
            "description": "Only these jobs, in this order. Goes with `wait`, which waits for all, and no other."
        },
    )
    reference = labels.reference("Only jobs with this `reference`.")
    status = fields.String(validate=validate.OneOf([str(status) for status in JobStatus]))
    operation = fields.String(validate=validate.OneOf(sorted(OPERATIONS)))
    cursor = fields.String(
        validate=validate.Regexp(r"job_[0-9A-Z]{26}\Z", error="Not a cursor."),
        metadata={"description": "`nextCursor` of the previous page."},
    )
    limit = fields.Integer(validate=validate.Range(1, 200), metadata={"description": "Jobs per page, by default 50."})

    @validates_schema
    def _fit_together(self, query: dict[str, Any], **_: Any) -> None:
        if "id" in query and (others := sorted(set(query) - {"id", "wait"})):
            raise ValidationError({name: ["Cannot be combined with `id`."] for name in others})
        if "wait" in query and "id" not in query:
            raise ValidationError("Needs `id`: the jobs to wait for.", "wait")


def blueprint() -> Blueprint:
    here = Blueprint("jobs", __name__, url_prefix="/jobs", description="Follow jobs")

    @here.route("")
    class JobList(MethodView):
        @here.doc(operationId="listJobs")
        @here.arguments(ListSchema, location="query")
        @here.response(
            200,
            JobListSchema,
            headers=headers.refer("Preference-Applied"),
            examples=examples.of_list(JobStatus.COMPLETED, JobStatus.FAILED),
        )
        @here.alt_response(
            202,
            schema=JobListSchema,
            description="With `id`: not all have ended",
            headers=headers.OF_JOBS,
            examples=examples.of_list(JobStatus.RUNNING, notFound=["job_01HF7YAT00M3XH5S9QHW1K2YB5"]),
            success=True,
        )
        def get(self, query: dict[str, Any]) -> dict[str, Any] | Response:
            """List your jobs, newest first, or read up to 100 by their ids.

            With `id`, `wait` waits for all of them.
            """
            if "id" in query:
                return _read_many(list(dict.fromkeys(query["id"])), query)
            limit = query.get("limit", 50)
            found = services().store.list_jobs(
                g.key_id,
                **{name: query.get(name) for name in ("status", "operation", "reference")},
                before=query.get("cursor"),
                limit=limit + 1,
            )
            page = found[:limit]
            return {
                "jobs": services().documents.views(page),
                "nextCursor": page[-1].id if len(found) > limit else None,
            }

    @here.route("/<job_id>", parameters=[paths.parameter("job_id")])
    class OneJob(MethodView):
        @here.doc(operationId="getJob")
        @here.arguments(JobQuerySchema, location="query")
        @here.response(
            200,
            JobSchema,
            description="The finished job",
            headers=headers.OF_JOB,
            examples=examples.of_jobs(JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED),
        )
        @here.alt_response(
            202,
            schema=JobSchema,
            description="The job so far",
            headers=headers.OF_JOB,
            examples=examples.of_jobs(JobStatus.QUEUED, JobStatus.RUNNING),
            success=True,
        )
        @here.refuses(NotFound, JobCancelled, failed_jobs=True)
        def get(self, query: dict[str, Any], job_id: str) -> Response:
            """Read a job.

            `Prefer: wait=N` holds the response until it has ended.
            """
            return job_response(services().jobs.get(job_id, g.key_id), query)

        @here.doc(operationId="cancelJob")
        @here.response(200, JobSchema, description="The cancelled job", examples=examples.of_jobs(JobStatus.CANCELLED))
        @here.refuses(NotFound, JobFinished)
        def delete(self, job_id: str) -> JobView:
            """Cancel a job."""
            return services().documents.view(services().jobs.cancel(job_id, g.key_id))

    @here.route("/<job_id>/webhook", parameters=[paths.parameter("job_id")])
    class JobWebhook(MethodView):
        @here.doc(operationId="replayWebhook")
        @here.response(
            202,
            JobSchema,
            description="The job, whose webhook will be sent",
            examples=examples.of_jobs(JobStatus.COMPLETED, webhook=True),
        )
        @here.refuses(NotFound, JobNotFinished, NoWebhook)
        def post(self, job_id: str) -> JobView:
            """Send the webhook of a finished job once more."""
            return services().documents.view(services().jobs.replay_webhook(job_id, g.key_id))

    return here


def _read_many(job_ids: list[str], query: dict[str, Any]) -> Response:
    """The jobs with these ids. One that is missing must not hide the others."""
    found = services().jobs.get_many(job_ids, g.key_id)
    not_found = [job_id for job_id in job_ids if job_id not in found]
    return jobs_response([found[job_id] for job_id in job_ids if job_id in found], not_found, query)
