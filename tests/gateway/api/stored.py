"""Everything that a gateway stores, to see what a request changed."""

from __future__ import annotations

from typing import Any

from gateway.db.tables import metadata
from gateway.wiring import Services


def rows(services: Services) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with services.store._engine.connect() as connection:
        return {
            name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for name, table in metadata.tables.items()
        }


def files(services: Services) -> dict[str, bytes]:
    """Every file below the storage's folder, half-written ones too."""
    root = services.settings.files_dir
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
