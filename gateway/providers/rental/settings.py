"""Settings of rented machines, which every cloud's own settings extend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from marshmallow import ValidationError, fields, validate

from common.settings import Networks, setting, variable, whole
from gateway.domain.jobs import MARGIN_MS
from gateway.domain.prices import GB
from gateway.settings import Settings


def _pinned(image: str) -> None:
    """Require a version, because hosts cache images: their `latest` is whatever they first pulled."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in {"", "latest"}:
        raise ValidationError("Must name a version or a digest, like acme/reelay-worker:0.1.0.")


@dataclass(frozen=True)
class RentalSettings:
    """Which machines are rented, for how long, and at what price. A cloud's own class sets PREFIX."""

    worker_image: str | None = setting(
        fields.String(validate=_pinned), None, "The worker's image, with its version: rented machines run it."
    )
    deployment: str | None = setting(
        fields.String(validate=validate.Regexp(r"[a-z0-9-]{1,32}\Z")),
        None,
        "Name of this installation in the labels of rented machines. Machines with this name that the database does "
        "not know are destroyed: no two databases may share it on one account.",
        variable="DEPLOYMENT",
    )
    max_price: float = setting(
        fields.Float(validate=validate.Range(0.01, 10)), 1.0, "Highest price of a rented machine, in dollars an hour."
    )
    max_traffic_price: float = setting(
        fields.Float(validate=validate.Range(0, 1)),
        0.03,
        "Highest price of traffic to or from a rented machine, in dollars per GB.",
    )
    image_gb: float = setting(
        fields.Float(validate=validate.Range(0, 50)),
        0.5,
        "Size of the worker's image in the registry, in GB. Every rented machine pulls it, which is billed as traffic.",
    )
    max_instances: int = setting(
        whole(0, 50), 2, "Maximum number of machines at once. 0: none gets another job, and all of them are destroyed."
    )
    allowed_ips: tuple[str, ...] = setting(
        Networks(),
        "",
        "Comma-separated addresses or networks that may call rented machines: those of all gateways. "
        "Default: this gateway's address as https://api.ipify.org sees it.",
    )
    concurrency: int = setting(whole(1, 3), 1, "Maximum number of jobs on a rented machine at once.")
    nvenc_hide_foreign_gpus: bool = setting(
        fields.Boolean(),
        "false",
        "Value of NVENC_HIDE_FOREIGN_GPUS on rented machines: a workaround for NVIDIA's drivers 570 to 609.",
    )
    queue_limit_s: int = setting(
        whole(10, 86_400),
        300,
        "Maximum time a job waits for a rented machine, unless one boots for it, before the next provider is asked.",
    )
    idle_timeout: int = setting(
        whole(10, 3600), 300, "Seconds without a job after which a rented machine is destroyed."
    )
    max_lifetime: int = setting(
        whole(900, 7 * 86_400), 6 * 3600, "Seconds after which a rented machine is destroyed, even during a job."
    )
    daily_budget: float = setting(
        fields.Float(validate=validate.Range(0.01, 10_000)),
        10.0,
        "Maximum dollars for rented machines and their traffic per day (UTC); beyond it none is rented and idle ones "
        "are destroyed.",
    )
    min_credit: float = setting(
        fields.Float(validate=validate.Range(0, 10_000)), 1.0, "Dollars on the account below which nothing is rented."
    )

    @property
    def image_bytes(self) -> int:
        """Size of the worker's image in the registry."""
        return round(self.image_gb * GB)


def mistakes(own: RentalSettings, settings: Settings) -> Iterator[str]:
    """Return mistakes that only show in several settings together. Every cloud's check begins with these."""
    # leave enough time for a job that has just started
    shortest = 2 * (settings.job_timeout_seconds + MARGIN_MS // 1000)
    if own.max_lifetime < shortest:
        name = variable(type(own), "max_lifetime")
        yield f"{name}: must be at least {shortest} with this JOB_TIMEOUT_SECONDS."
