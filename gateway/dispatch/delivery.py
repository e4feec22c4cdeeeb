"""The input of a worker: operation, params, and where to upload and report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dispatch.context import DispatchContext
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job
from gateway.domain.transitions import MAX_ENCODER_REFUSALS
from wire.envelope import Delivery, DeliverySchema, EventTarget, Limits

EVENTS_PURPOSE = "events"

# Built once: building one takes longer than using it.
_DELIVERY = DeliverySchema()


def job_input(context: DispatchContext, job: Job, attempt: Attempt, params: Mapping[str, Any]) -> dict[str, Any]:
    """Build the JSON that `provider.submit` hands to a worker."""
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
    return {"operation": job.operation, **params, "delivery": _DELIVERY.dump(delivery)}
