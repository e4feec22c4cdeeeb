"""What can go wrong on the way to the wanted endpoint."""

from __future__ import annotations


class EndpointError(Exception):
    """The message is for the operator and holds no secret."""


class AnswerLost(EndpointError):
    """The call may have had its effect."""
