"""`/jobs`: read, list and cancel jobs, and send their webhooks again."""

from __future__ import annotations

from typing import Any

from flask import Response, g
from flask.views import MethodView
from marshmallow import Schema, fields, validate

from ffmpeg_ops.operation import OPERATIONS
from gateway.api.blueprint import Blueprint
from gateway.api.job_document import JobSchema, JobView
from gateway.api.job_response import JobListSchema, WaitSchema, job_response
from gateway.domain.jobs import MAX_REFERENCE, JobStatus
from gateway.errors import JobFinished, JobNotFinished, NotFound, NoWebhook
from gateway.wiring import services


class ListSchema(Schema):
    reference = fields.String(
        validate=validate.Length(1, MAX_REFERENCE), metadata={"description": "Only jobs with this `reference`."}
    )
    status = fields.String(validate=validate.OneOf([str(status) for status in JobStatus]))
    operation = fields.String(validate=validate.OneOf(sorted(OPERATIONS)))
    cursor = fields.String(
        validate=validate.Regexp(r"job_[0-9A-Z]{26}\Z", error="Not a cursor."),
        metadata={"description": "`nextCursor` of the previous page."},
    )
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))


def blueprint() -> Blueprint:
    here = Blueprint("jobs", __name__, url_prefix="/jobs", description="Follow jobs")

    @here.route("")
    class JobList(MethodView):
        @here.arguments(ListSchema, location="query")
        @here.response(200, JobListSchema)
        def get(self, query: dict[str, Any]) -> dict[str, Any]:
            """List your jobs, newest first."""
            limit = query["limit"]
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

    @here.route("/<job_id>")
    class OneJob(MethodView):
        @here.arguments(WaitSchema, location="query")
        @here.response(200, JobSchema, description="The finished job")
        @here.alt_response(202, schema=JobSchema, description="The job so far", success=True)
        @here.refuses(NotFound)
        def get(self, query: dict[str, Any], job_id: str) -> Response:
            """Read a job. `Prefer: wait=N` holds the response until it has ended."""
            return job_response(services().jobs.get(job_id, g.key_id), wait=query.get("wait"))

        @here.response(200, JobSchema, description="The cancelled job")
        @here.refuses(NotFound, JobFinished)
        def delete(self, job_id: str) -> JobView:
            """Cancel a job."""
            return services().documents.view(services().jobs.cancel(job_id, g.key_id))

    @here.route("/<job_id>/webhook")
    class JobWebhook(MethodView):
        @here.response(202, JobSchema, description="The job, whose webhook will be sent")
        @here.refuses(NotFound, JobNotFinished, NoWebhook)
        def post(self, job_id: str) -> JobView:
            """Send the webhook of a finished job once more."""
            return services().documents.view(services().jobs.replay_webhook(job_id, g.key_id))

    return here
