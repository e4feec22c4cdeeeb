"""Declares the provider `runpod`."""

from __future__ import annotations

from gateway.providers.base import Registration
from gateway.providers.runpod.provider import RunPodProvider
from gateway.providers.runpod.settings import RunPodSettings

PROVIDER = Registration("runpod", RunPodSettings, RunPodProvider, required=("api_key", "endpoint_id"))
