"""Fixtures of the stand-in for Vast.ai."""

from tests.gateway.providers.vast_scene import *  # noqa: F403
