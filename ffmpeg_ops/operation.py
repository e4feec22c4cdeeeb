"""Defines what an operation is, and the table of all operations.

An operation is a package next to this module. Its `__init__` holds the documentation and the params schema, and can be
imported by a gateway without FFmpeg; its module `run` does the work and is imported by workers only. `OPERATIONS` finds
every package that has an `OPERATION`.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from marshmallow import Schema, ValidationError

import ffmpeg_ops
from ffmpeg_ops.assets import NamedAsset, kinds, named
from wire.envelope import OUTPUT_NAME, RESERVED_NAMES, Limits
from wire.errors import JobError
from wire.media_types import MEDIA_TYPES, MP4, MediaType

Outputs = Mapping[str, MediaType]
MAX_SMALL = 1920 * 1088
# The outputs of most operations.
VIDEO: Outputs = {"video": MP4}


class StopSignal:
    """Stops the work of one attempt, on whatever thread it runs, and carries the reason. The first reason is kept."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.reason: JobError | None = None

    def set(self, reason: JobError) -> None:
        """Stop the work for `reason`."""
        with self._lock:
            if self.reason is None:
                self.reason = reason
        self._event.set()

    def check(self) -> None:
        """Raise the reason once there is one: a copy, because tracebacks would keep all that the work holds alive."""
        if self.reason is not None:
            raise copy.copy(self.reason)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until there is a reason to stop, which is raised."""
        self._event.wait(seconds)
        self.check()


@dataclass(frozen=True)
class Work:
    """The context of one run of an operation: its directory, limits and callbacks."""

    #: Private to the attempt, and removed after it.
    directory: Path
    #: The limits of the attempt.
    limits: Limits = Limits()
    #: Must be checked at least twice a second by long-running work.
    stop: StopSignal = field(default_factory=StopSignal)
    #: Takes a fraction of 0 to 1.
    progress: Callable[[float], None] = lambda fraction: None
    #: Whether the job fails where the GPU does not encode; otherwise the CPU does.
    requires_gpu: bool = False
    #: Whether the GPU decodes videos that it encodes.
    decodes_on_gpu: bool = False
    #: The files that the operation has declared.
    outputs: Outputs = field(default_factory=lambda: VIDEO)
    #: Ids of the processes that work for the attempt now.
    processes: set[int] = field(default_factory=set)
    #: Set once a picture of more than MAX_SMALL pixels is encoded, for which more memory is allowed.
    large: threading.Event = field(default_factory=threading.Event)

    def output(self, name: str) -> Path:
        """Where to write the output `name`. Raises LookupError when the operation has not declared it."""
        if name not in self.outputs:
            raise LookupError(f"the operation has not declared the output {name!r}")
        return self.directory / output_file(name, self.outputs[name])


def output_file(name: str, media_type: MediaType) -> str:
    """The file name of an output in the attempt's directory; the prefix avoids clashes with other files there."""
    return f"output-{name}.{media_type.extension}"


class Weight(StrEnum):
    """What kind of worker an operation needs."""

    #: No video is encoded and no model is run.
    LIGHT = "light"
    #: Needs a GPU, or the time that an encode takes without one.
    GPU = "gpu"
    #: Only probing shows whether a copy is enough.
    LIGHT_FIRST = "light_first"


@dataclass(frozen=True)
class Operation:
    """One operation. Raises TypeError for an invalid declaration."""

    #: As in `POST /video/<name>`.
    name: str
    #: The import name of its package, whose docstring documents it and whose module `run` does the work.
    package: str
    #: Schema of its params.
    params: type[Schema]
    #: The files that it makes with these loaded params: name → media type.
    outputs: Callable[[Mapping[str, Any]], Outputs]
    #: What kind of worker it needs.
    weight: Weight
    #: Params for its documentation; the first has only the required ones.
    examples: tuple[Mapping[str, Any], ...]
    #: What `result` is with the first of them, for its documentation; empty if it has none.
    result_example: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        schema = self.params()
        if taken := RESERVED_NAMES & set(schema.fields):
            raise TypeError(f"{self.name}: reserved names cannot be params: {sorted(taken)}")
        try:
            kinds(schema)
            for example in self.examples:
                params = schema.load(dict(example))
                named(schema, params)
                self.declared(params)
        except (AttributeError, TypeError, ValidationError) as error:
            raise TypeError(f"{self.name}: {error}") from error

    @cached_property
    def _schema(self) -> Schema:
        """Created once, because creating it takes longer than using it."""
        return self.params()

    @cached_property
    def doc(self) -> str:
        return (importlib.import_module(self.package).__doc__ or "").strip()

    @property
    def summary(self) -> str:
        return self.doc.splitlines()[0]

    @cached_property
    def asset_kinds(self) -> Mapping[str, str]:
        """Path of an asset, with `[]` for the items of a list, → kind."""
        return kinds(self._schema)

    def named_assets(self, params: Mapping[str, Any]) -> list[NamedAsset]:
        """The assets that loaded params name. Raises ValidationError when they are too many."""
        return named(self._schema, params)

    def dump(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Loaded params as JSON, with the defaults of those that were not set."""
        return self._schema.dump(params)  # type: ignore[no-any-return]

    def declared(self, params: Mapping[str, Any]) -> Outputs:
        """`outputs` of loaded params. Raises TypeError for an invalid name or media type."""
        declared = self.outputs(params)
        for name, media_type in declared.items():
            if not OUTPUT_NAME.fullmatch(name):
                raise TypeError(f"an output cannot be called {name!r}")
            if MEDIA_TYPES.get(media_type.name) is not media_type:
                raise TypeError(f"output {name}: {media_type!r} is not in wire.media_types")
        return declared

    def run(self, work: Work, params: Mapping[str, Any], assets: Mapping[str, Path]) -> dict[str, Any]:
        """Do the work: write every declared output, and return stats as StatsSchema declares.

        `params` are loaded; `assets` maps the path of each asset to its file. A small JSON object under `result`
        becomes the job's result. Raises `wire.errors.JobError`; any other exception is a bug.
        """
        return self.load().run(work, params, assets)  # type: ignore[no-any-return]

    def load(self) -> ModuleType:
        """Import the module that does the work. Takes up to a second the first time."""
        return importlib.import_module(f"{self.package}.run")


class _Found(Mapping[str, Operation]):
    """The packages next to this module, imported at the first use because they import this module."""

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
