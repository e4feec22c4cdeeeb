"""Helpers for the providers' commands: settings, tables, and errors without secrets."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import click
from flask import current_app

from common.settings import SettingsError
from gateway.configuration import read_settings
from gateway.settings import Settings
from gateway.wiring import services

HIDDEN = "(hidden)"


def settings_here() -> Settings:
    """The gateway's settings; without a configured gateway those of the environment, none of them required."""
    if "reelay" in current_app.extensions:
        return services().settings
    try:
        return read_settings()
    except SettingsError as error:
        raise click.ClickException(f"Wrong settings: {error}") from error


@contextmanager
def shown_errors(kind: type[Exception], secrets: Collection[str | None]) -> Iterator[None]:
    """Show errors of this kind as text, without secrets that the provider may have quoted."""
    try:
        yield
    except kind as error:
        text = str(error)
        for secret in filter(None, secrets):
            text = text.replace(secret, HIDDEN)
        raise click.ClickException(text) from error


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text, each as wide as its widest cell."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )


def counted(count: int, noun: str) -> str:
    """`1 machine`, `2 machines`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
