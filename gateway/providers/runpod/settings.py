"""Settings of the provider `runpod`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, validate

from common.settings import http_url, setting, whole
from gateway.providers.runpod.gpus import Prices


def _job_base(url: str) -> None:
    if urlsplit(url).hostname in {"api.runpod.io", "rest.runpod.io"}:
        raise ValidationError("Is RunPod's management API; jobs go to https://api.runpod.ai/v2.")


@dataclass(frozen=True)
class RunPodSettings:
    """See `.env.example`."""

    PREFIX: ClassVar[str] = "RUNPOD_"

    api_key: str | None = setting(fields.String(), None, "Key of the RunPod account.")
    endpoint_id: str | None = setting(
        fields.String(validate=validate.Regexp(r"[A-Za-z0-9_-]+\Z")),
        None,
        "The RunPod Serverless endpoint that runs jobs.",
    )
    api_base: str = setting(http_url(_job_base), "https://api.runpod.ai/v2", "Base of RunPod's job API.")
    management_base: str = setting(
        http_url(),
        "https://api.runpod.io/v2",
        "Base of RunPod's management API, for `flask --app gateway runpod`.",
    )
    queue_limit_s: int = setting(
        whole(1, 86_400), 300, "Maximum time that a job waits in RunPod's queue before the next provider is asked."
    )
    gpu_prices: Mapping[str, int] | None = setting(
        Prices(), None, "RunPod's prices in dollars per second where they changed: ADA_24=0.00031, …"
    )
    idle_timeout_s: int = setting(
        whole(1, 3600), 300, "Idle timeout of the endpoint, for which its worker is billed after its last job."
    )
