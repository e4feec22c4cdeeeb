"""The providers. One more is one file behind the protocol in `base.py`, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.providers.base import Context, Provider
from gateway.providers.local import LocalProvider
from gateway.providers.rental.provider import VastProvider
from gateway.providers.runpod.provider import RunPodProvider

__all__ = ["KNOWN", "Context", "make"]

KNOWN: Mapping[str, Callable[[Context], Provider]] = {
    "local": LocalProvider,
    "runpod": RunPodProvider,
    "vast": VastProvider,
}


def make(context: Context) -> dict[str, Provider]:
    """The providers of PROVIDERS, by name, in the order of trial."""
    return {name: KNOWN[name](context) for name in context.settings.providers}
