"""The input of a worker: operation, params, and where to upload and report."""

from __future__ import annotations

import json

from gateway.dispatch.context import DispatchContext
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job
from gateway.domain.transitions import MAX_ENCODER_REFUSALS
from gateway.providers.base import JobInput
from wire.envelope import Delivery, DeliverySchema, EventTarget, Limits

EVENTS_PURPOSE = "events"

# Built once: building one takes longer than using it.
_DELIVERY = DeliverySchema()


def job_input(context: DispatchContext, job: Job, attempt: Attempt, params: str) -> JobInput:
    """Build what `provider.submit` hands to a worker. `params`: JSON text, which is passed on unparsed."""
    settings = context.settings
    token = context.signer.sign(EVENTS_PURPOSE, [attempt.id, attempt.deadline])
    events = EventTarget(f"{settings.worker_base}/events/{attempt.id}", token) if settings.worker_events else None
    delivery = Delivery(
        job_id=job.id,
        attempt_id=attempt.id,
        deadline=attempt.deadline,
        limits=Limits(
            settings.max_asset_bytes, settings.max_output_bytes, job.timeout_s, settings.max_job_assets_bytes
        ),
        uploads={
            name: context.storage.presign_put(
                attempt.output_key(name, output),
                max_bytes=settings.max_output_bytes,
                expires_at=attempt.deadline,
                file_name=job.file_name(name),
            )
            for name, output in job.outputs.items()
        },
        request_id=job.request_id,
        events=events,
        gpu_encoder="prefer" if job.encoder_refusals >= MAX_ENCODER_REFUSALS else settings.gpu_encoder,
    )
    members = [f'"operation": {json.dumps(job.operation)}', params[1:-1], f'"delivery": {_DELIVERY.dumps(delivery)}']
    return JobInput("{" + ", ".join(filter(None, members)) + "}", job.operation, job.timeout_s)
