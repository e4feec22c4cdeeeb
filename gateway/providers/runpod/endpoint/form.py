"""The fields of RunPod's form: their labels, units, and the reason for each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.providers.command_support import HIDDEN
from gateway.providers.runpod.endpoint.wanted import is_secret


@dataclass(frozen=True)
class Field:
    """A field of the form."""

    #: Its name on RunPod's page.
    label: str
    #: The reason for the value.
    why: str
    #: Unit in which the value is shown.
    unit: str = ""
    #: How many of the management API's units make one `unit`.
    per: int = 1


# By path in the management API, in the order of the form.
FORM: Mapping[str, Field] = {
    "image": Field("Container Image", "One version, never `latest`: hosts cache the `latest` that they pulled first."),
    "name": Field("Endpoint Name", "`plan` and `apply` find the endpoint by it; two of the same name are an error."),
    "type": Field("Endpoint Type", "Jobs wait in RunPod's queue. A load balancer has none, and the type is fixed."),
    "gpu.pools": Field(
        "GPU Configuration",
        "Cheapest first, since most of the cost is idle time; and several, so that jobs still run when one is out "
        "of stock. The table below lists their GPUs. All have NVENC.",
    ),
    "workers.min": Field(
        "Active Workers", "With 0, time without jobs costs nothing. 1 removes the cold start but is billed all day."
    ),
    "workers.max": Field("Max Workers", "The maximum number of jobs at once, which also limits the cost of an hour."),
    "gpu.count": Field("GPUs per Worker", "FFmpeg uses one."),
    "workers.idleTimeout": Field(
        "Idle Timeout", "The next job within it finds a warm worker. It is billed: see below.", unit="s"
    ),
    "timeout": Field(
        "Execution Timeout",
        "`JOB_TIMEOUT_SECONDS` (600) and two minutes for the upload. The gateway's jobs set their own; this one is "
        "for jobs that are submitted on RunPod's page.",
        unit="s",
        per=1000,
    ),
    "flashboot": Field("FlashBoot", "Costs nothing and shortens the cold start."),
    "disk": Field("Container Disk", "The image, the files of one job (100 MB each by default), its output.", unit="GB"),
    "env": Field("Environment Variables", "No secrets: a worker needs none. The image sets what NVENC needs."),
    "scaling.type": Field(
        "Auto Scaling Type", "The other type, request count, allows no idle timeout: RunPod refuses the two together."
    ),
    "scaling.queueDelay": Field(
        "Queue Delay", "A job that waits longer starts another worker, which adds its own idle time.", unit="s"
    ),
    "gpu.excludedTypes": Field(
        "GPU Types switched off",
        "Every GPU of these pools that this release knows can encode. `plan` adds those that it does not know.",
    ),
    "gpu.minCudaVersion": Field(
        "Lowest CUDA Version",
        "NVENC in Debian 13's FFmpeg needs driver 530.41, and CUDA 12.1 came with 530.30. In the form: tick this "
        "one and all that are newer.",
    ),
    "gpu.allowedCudaVersions": Field("Other CUDA limits", "The minimum is enough; a fixed set makes machines scarce."),
}


def label(path: str) -> str:
    return f"env {path.removeprefix('env.')}" if path.startswith("env.") else FORM[path].label


def shown(path: str, value: Any) -> str:
    """A value in the form's units; HIDDEN for a variable that looks like a secret."""
    if value is None:
        return "—"
    if path.startswith("env."):
        return HIDDEN if is_secret(path.removeprefix("env."), str(value)) else str(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "—"
    field = FORM[path]
    if field.unit and isinstance(value, int | float):
        return f"{value / field.per:g} {field.unit}"
    return str(value)
