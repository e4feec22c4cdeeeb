"""The providers: every package below this one that has a module `registration` with a `PROVIDER`."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from gateway import providers
from gateway.providers.base import Context, Provider, Registration


def _registrations() -> Iterator[Registration[Any]]:
    for module in pkgutil.walk_packages(providers.__path__, f"{providers.__name__}."):
        if module.name.endswith(".registration"):
            yield import_module(module.name).PROVIDER


#: By name, in alphabetical order.
PROVIDERS: Mapping[str, Registration[Any]] = {
    registration.name: registration for registration in sorted(_registrations(), key=lambda found: found.name)
}


def make(context: Context) -> dict[str, Provider]:
    """The providers of the setting PROVIDERS, by name, in the order in which they are tried."""
    return {name: PROVIDERS[name].make(context) for name in context.settings.providers}
