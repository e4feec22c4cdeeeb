"""Errors of the commands that manage the endpoint."""

from __future__ import annotations


class EndpointError(Exception):
    """An error whose message is for the operator and contains no secret."""


class AnswerLost(EndpointError):
    """The response was lost; the call may have had its effect."""
