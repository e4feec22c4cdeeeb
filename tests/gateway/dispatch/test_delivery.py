from __future__ import annotations

import pytest

from gateway.providers.base import Phase, Remote
from tests.gateway.conftest import Wire
from wire.errors import EncoderUnavailable


@pytest.mark.parametrize("asked", ["prefer", "require"])
def test_the_cpu_may_encode_after_two_machines_without_an_encoder(asked: str, wire: Wire) -> None:
    services = wire(gpu_encoder=asked)
    job = services.add_job()
    services.provider.script("poll", *[Remote(Phase.FAILED, error=EncoderUnavailable())] * 2)
    while len(services.provider.inputs) < 3:
        services.follow(job, 1)
    assert [sent["delivery"]["gpu_encoder"] for sent in services.provider.inputs] == [asked, asked, "prefer"]
    assert services.job(job).tries == 1
