"""Declares the provider `vast`: rented machines of the cloud Vast.ai."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.providers.base import Context, Registration
from gateway.providers.clouds.vast.client import MAX_VALUE_CHARACTERS, VastCloud
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.provider import RentalProvider
from gateway.providers.rental.settings import mistakes
from gateway.settings import Settings


def _make(context: Context) -> RentalProvider:
    settings = context.settings.of(VastSettings)
    return RentalProvider(context, settings, VastCloud(settings, context.clock))


def _check(own: VastSettings, settings: Settings) -> Iterator[str]:
    yield from mistakes(own, settings)
    if len(",".join(own.allowed_ips)) > MAX_VALUE_CHARACTERS:
        yield f"VAST_ALLOWED_IPS: at most {MAX_VALUE_CHARACTERS} characters, the maximum that Vast.ai accepts."


PROVIDER = Registration("vast", VastSettings, _make, required=("api_key", "worker_image", "deployment"), check=_check)
