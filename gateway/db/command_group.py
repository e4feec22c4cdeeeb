"""Commands of `flask --app gateway` that need the database."""

from __future__ import annotations

from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy.exc import SQLAlchemyError

from gateway.db.engine import brief


class OnDatabase(AppGroup):
    """A group that reports an unusable database on one line, followed by `hint`."""

    def __init__(self, name: str, help: str, hint: str = "") -> None:
        super().__init__(name, help=help)
        self._hint = f" {hint}" if hint else ""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SQLAlchemyError as error:
            raise click.ClickException(f"The database cannot be used: {brief(error)}.{self._hint}") from error
