"""Declares the provider `local`."""

from __future__ import annotations

from gateway.providers.base import Registration
from gateway.providers.local.provider import LocalProvider
from gateway.providers.local.settings import LocalSettings

PROVIDER = Registration("local", LocalSettings, LocalProvider, remote=False)
