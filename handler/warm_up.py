"""What a worker does to be quick: it starts without what it does not need, and gets ready while it waits."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import structlog

from ffmpeg_ops.engine import encoders, sandbox
from ffmpeg_ops.operation import OPERATIONS
from wire.errors import JobError

log = structlog.get_logger(__name__)

# Of the SDK's command line alone; the worker half of the SDK imports them all the same.
_SELDOM = ("paramiko", "tomlkit")


class _Later(ModuleType):
    """Stands for a module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # how the import system looks at a module; not a use of it
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def spare_imports() -> None:
    """Call it before runpod is imported: that then takes a third of its time."""
    for name in _SELDOM:
        sys.modules.setdefault(name, _Later(name))
    # The debugger of the SDK asks for the processor's name at import: a second, for a field that nobody reads.
    cpuinfo = ModuleType("cpuinfo")
    cpuinfo.get_cpu_info = lambda: {"brand_raw": "not asked"}  # type: ignore[attr-defined]
    sys.modules.setdefault("cpuinfo", cpuinfo)


def warm_up() -> None:
    """What the first job would otherwise wait for: a working encoder, the operations' libraries. Never raises."""
    log.info("sandbox.checked", available=sandbox.available())
    try:
        encoders.best()
    except JobError as error:
        log.error("worker.cannot_encode", reason=error.message, detail=error.detail)
    for operation in OPERATIONS.values():
        try:
            operation.load()
        except Exception:
            log.exception("worker.cannot_load", operation=operation.name)
