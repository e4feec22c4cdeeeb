"""What an operation is, and the table of those that exist.

An operation is a package beside this file: its `__init__` holds the documentation and the params schema, light enough
for a gateway without FFmpeg; its module `run` does the work and is imported only where it is done. Nothing lists the
operations by hand: `OPERATIONS` finds every package that has an `OPERATION`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from marshmallow import Schema, ValidationError, fields, validate

import ffmpeg_ops
from wire.envelope import RESERVED_NAMES, Limits
from wire.errors import JobError

MAX_URL = 4096
ASSET_KINDS = ("video", "image", "audio", "subtitles")


def _can_be_called(url: str) -> None:
    """Its port exists, and it has no control characters, which PostgreSQL does not store either."""
    try:
        _ = urlsplit(url).port
        if re.search(r"[\x00-\x20\x7f]", url):
            raise ValueError("control character")
    except ValueError as error:
        raise ValidationError("Must be an http or https URL.") from error


class WebUrl(fields.Url):
    """An http or https URL, of at most MAX_URL characters."""

    def __init__(self, **kwargs: Any) -> None:
        # no top-level domain needed: a gateway on a laptop or in a compose file is http://gateway:8000
        super().__init__(
            require_tld=False,
            schemes={"http", "https"},
            validate=[validate.Length(max=MAX_URL), _can_be_called],
            error_messages={"invalid": "Must be an http or https URL."},
            **kwargs,
        )


class Asset(WebUrl):
    """A param that names a file by URL. `kind` is one of ASSET_KINDS; the worker fetches the file before `run`."""

    def __init__(self, kind: str, **kwargs: Any) -> None:
        if kind not in ASSET_KINDS:
            raise ValueError(f"unknown kind of asset: {kind}")
        self.kind = kind
        super().__init__(**kwargs)


class StopSignal:
    """Tells the work of one attempt, on whatever thread it is, to stop; carries the reason. The first reason stays."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.reason: JobError | None = None

    def set(self, reason: JobError) -> None:
        with self._lock:
            if self.reason is None:
                self.reason = reason
        self._event.set()

    def check(self) -> None:
        """Raises the reason once there is one."""
        if self.reason is not None:
            raise self.reason

    def wait(self, seconds: float) -> None:
        """Sleeps for `seconds`, or until there is a reason to stop, which is raised."""
        self._event.wait(seconds)
        self.check()


@dataclass(frozen=True)
class Work:
    """Where and under which limits an operation runs.

    `directory` is private to the attempt and removed after it. `progress` takes a fraction of 0 to 1. Whatever takes
    long asks `stop` at least twice a second.
    """

    directory: Path
    limits: Limits = Limits()
    stop: StopSignal = field(default_factory=StopSignal)
    progress: Callable[[float], None] = lambda fraction: None

    @property
    def output(self) -> Path:
        """The file that the operation makes."""
        return self.directory / "output.mp4"


@dataclass(frozen=True)
class Operation:
    """One operation. `package` is the import name of its room, whose docstring documents it.

    `run(work, params, assets)` gets the validated params and, by param name, the fetched files; it writes `work.output`
    and answers figures for the result's stats. It raises `wire.errors.JobError` and nothing else on purpose.
    """

    name: str
    package: str
    params: type[Schema]
    examples: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        if taken := RESERVED_NAMES & set(self.params().fields):
            raise TypeError(f"{self.name}: reserved names cannot be params: {sorted(taken)}")

    @cached_property
    def doc(self) -> str:
        return (importlib.import_module(self.package).__doc__ or "").strip()

    @property
    def summary(self) -> str:
        return self.doc.splitlines()[0]

    @cached_property
    def assets(self) -> Mapping[str, str]:
        """Param name → kind of asset."""
        return {name: f.kind for name, f in self.params().fields.items() if isinstance(f, Asset)}

    def run(self, work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
        return self.load().run(work, params, assets)  # type: ignore[no-any-return]

    def load(self) -> ModuleType:
        """The module that does the work, with all that it imports. Takes up to a second the first time."""
        return importlib.import_module(f"{self.package}.run")


class _Found(Mapping[str, Operation]):
    """The rooms beside this file, looked for at the first use: they import this module themselves."""

    @cached_property
    def _table(self) -> dict[str, Operation]:
        packages = sorted(m.name for m in pkgutil.iter_modules(ffmpeg_ops.__path__) if m.ispkg and m.name != "engine")
        found = [importlib.import_module(f"ffmpeg_ops.{name}").OPERATION for name in packages]
        return {operation.name: operation for operation in found}

    def __getitem__(self, name: str) -> Operation:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


OPERATIONS: Mapping[str, Operation] = _Found()
