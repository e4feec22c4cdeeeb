"""Settings: a frozen dataclass whose fields define how each environment variable is read, checked and documented.

    @dataclass(frozen=True)
    class Settings:
        port: int = setting(fields.Integer(validate=validate.Range(1, 65535)), 8000, "Port to listen on.")

reads `PORT`. A class with a `PREFIX` reads variables with that prefix, unless `setting` names another. A variable
that is empty counts as unset. All mistakes are reported together, by the variable's name.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dotenv import dotenv_values
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

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


def whole(minimum: int, maximum: int) -> fields.Integer:
    """A whole number from `minimum` to `maximum`."""
    return fields.Integer(validate=validate.Range(minimum, maximum))


def http_url(check: Callable[[str], None] | None = None) -> fields.Url:
    """A URL of a server, possibly on the local network; `check` raises ValidationError if it is wrong."""
    return fields.Url(require_tld=False, schemes={"http", "https"}, validate=check)


def log_level() -> Any:
    """The setting LOG_LEVEL."""
    levels = validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"])
    return setting(fields.String(validate=levels), "INFO", "Minimum level that is logged.")


def setting(field: fields.Field[Any], default: Any, doc: str, *, variable: str | None = None) -> Any:
    """Define a field of a settings dataclass, read from `variable` (default: the class's PREFIX and the field's name).

    `default` is given as the environment would: text is parsed by `field` too.
    """
    return dataclasses.field(default=default, metadata={"field": field, "doc": doc, "variable": variable})


def variables(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The variables that `cls` reads, each with its field."""
    prefix = getattr(cls, "PREFIX", "")
    named = [f for f in dataclasses.fields(cls) if "field" in f.metadata]
    return {f.metadata["variable"] or prefix + f.name.upper(): f for f in named}


def variable(cls: type[Any], name: str) -> str:
    """The variable that the field `name` of `cls` is read from."""
    return next(variable for variable, f in variables(cls).items() if f.name == name)


def environment() -> dict[str, str]:
    """The variables of the environment, and those of `.env` that it lacks."""
    return {**{k: v or "" for k, v in dotenv_values(".env").items()}, **os.environ}


def read(cls: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read `cls` from `environ` (default: the environment, then `.env`). Raises SettingsError naming every mistake."""
    environ = environment() if environ is None else environ
    specs = variables(cls)
    schema = Schema.from_dict({name: f.metadata["field"] for name, f in specs.items()})(unknown=EXCLUDE)
    given = {name: environ[name] for name in specs if environ.get(name, "").strip()}
    defaults = {name: f.default for name, f in specs.items() if isinstance(f.default, str)}
    try:
        values = schema.load(defaults | given)
    except ValidationError as error:
        raise SettingsError(describe(error)) from error
    return cls(**{specs[name].name: value for name, value in values.items()})


def example(cls: type[Any]) -> str:
    """Return the variables of `cls` as lines of a `.env` file, each with its meaning and default."""
    lines = []
    for name, f in variables(cls).items():
        default = "" if f.default is None else f.default
        lines += [f"# {f.metadata['doc']}", f"#{name}={default}", ""]
    return "\n".join(lines)
