"""The cost of a usual rental, by which offers are compared: their hour alone is often the smaller part."""

from __future__ import annotations

from gateway.domain.prices import USUAL_FETCHED_BYTES, USUAL_STORED_BYTES
from gateway.providers.rental.cloud import Offer
from gateway.providers.rental.settings import RentalSettings

BOOT_S, JOB_S, JOBS = 120, 10, 10


def rental_nano(offer: Offer, settings: RentalSettings, jobs: int = JOBS) -> int:
    """Nano-dollars for a boot, the pull of the image, `jobs` usual jobs one after another, and the idle time."""
    seconds = BOOT_S + jobs * JOB_S + settings.idle_timeout
    traffic_nano = offer.traffic.nano(settings.image_bytes + jobs * USUAL_FETCHED_BYTES, jobs * USUAL_STORED_BYTES)
    return offer.nano_per_s * seconds + traffic_nano
