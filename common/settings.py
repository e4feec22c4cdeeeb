"""Settings: a frozen dataclass whose fields define how each environment variable is read, checked and documented.

    @dataclass(frozen=True)
    class Settings:
        port: int = setting(fields.Integer(validate=validate.Range(1, 65535)), 8000, "Port to listen on.")

reads `PORT`. An empty variable counts as unset. All mistakes are reported together, by the name of the variable.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from dotenv import dotenv_values
from marshmallow import EXCLUDE, Schema, ValidationError, fields

from common.validation import describe

S = TypeVar("S")


class SettingsError(Exception):
    """One or more variables are wrong; the message names each of them."""


class CommaList(fields.Field[tuple[str, ...]]):
    """Comma-separated list: `a, b` becomes `("a", "b")`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        return tuple(part.strip() for part in str(value).split(",") if part.strip())


class Origins(CommaList):
    """Comma-separated list of `scheme://host[:port]`."""

    _ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?/?", re.IGNORECASE)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        entries = super()._deserialize(value, attr, data, **kwargs)
        # A password in the URL is not shown.
        wrong = [entry.rpartition("@")[2] for entry in entries if not self._ORIGIN.fullmatch(entry)]
        if wrong:
            raise ValidationError(f"Must be http(s)://host[:port]: {', '.join(map(repr, wrong))}.")
        return entries


class Networks(CommaList):
    """Comma-separated list of IP addresses and networks."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        entries = super()._deserialize(value, attr, data, **kwargs)
        odd = [entry for entry in entries if not _is_network(entry)]
        if odd:
            raise ValidationError([f"{entry!r} is not an IP address or network." for entry in odd])
        return entries


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry)
    except ValueError:
        return False
    return True


class Folder(fields.Field[Path]):
    """A path, made absolute, `~` expanded."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Path:
        return Path(str(value)).expanduser().absolute()


def setting(field: fields.Field[Any], default: Any, doc: str) -> Any:
    """Declare a field of a settings dataclass. A textual `default` is parsed by `field` like a variable's value."""
    return dataclasses.field(default=default, metadata={"field": field, "doc": doc})


def read(cls: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read `cls` from `environ` (default: the environment, then `.env`). Raises SettingsError naming every mistake."""
    if environ is None:
        environ = {**{k: v or "" for k, v in dotenv_values(".env").items()}, **os.environ}
    specs = {f.name.upper(): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    schema = Schema.from_dict({name: f.metadata["field"] for name, f in specs.items()})(unknown=EXCLUDE)
    given = {name: environ[name] for name in specs if environ.get(name, "").strip()}
    defaults = {name: f.default for name, f in specs.items() if isinstance(f.default, str)}
    try:
        values = schema.load(defaults | given)
        return cls(**{name.lower(): value for name, value in values.items()})
    except ValidationError as error:
        raise SettingsError(describe(error)) from error


def example(cls: type[Any]) -> str:
    """Return the variables of `cls` as lines of a `.env` file, each with its meaning and default."""
    lines = []
    for f in dataclasses.fields(cls):
        default = "" if f.default is None else f.default
        lines += [f"# {f.metadata['doc']}", f"#{f.name.upper()}={default}", ""]
    return "\n".join(lines)
