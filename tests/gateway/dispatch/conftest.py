"""A gateway with two providers, and pauses without jitter."""

from __future__ import annotations

import pytest

from gateway.dispatch import submit
from tests.gateway.conftest import FakeProvider, Gateway, Wire


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are as long as they are meant to be."""
    monkeypatch.setattr(submit.random, "uniform", lambda low, high: 1.0)


@pytest.fixture
def two(wire: Wire) -> Gateway:
    """A gateway with the providers `one` and `two`."""
    return wire({name: FakeProvider(name) for name in ("one", "two")})
