"""Settings of the provider `vast`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from marshmallow import fields, validate

from common.settings import http_url, setting, whole
from gateway.providers.rental.settings import RentalSettings


@dataclass(frozen=True)
class VastSettings(RentalSettings):
    """See `.env.example`."""

    PREFIX: ClassVar[str] = "VAST_"

    api_key: str | None = setting(fields.String(), None, "Key of the Vast.ai account.")
    api_base: str = setting(http_url(), "https://console.vast.ai", "Base of Vast.ai's API.")
    offer_order: str = setting(
        fields.String(validate=validate.OneOf(["cost", "speed"])),
        "cost",
        "Which offer is taken first: `cost` the cheapest, `speed` the newest generation of encoders.",
    )
    min_vram_gb: int = setting(whole(1, 96), 8, "Minimum memory of a rented GPU, in GB.")
