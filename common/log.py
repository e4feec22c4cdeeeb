"""Structured logs: one JSON object a line on standard error, or aligned text on a terminal.

Code that works on a job binds `job_id`, `attempt_id` and `request_id` once with `structlog.contextvars`; every later
line of that thread carries them, including the lines of libraries.
"""

from __future__ import annotations

import json as _json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

# Without local variables: they hold keys, tokens and signed URLs.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))

# RunPod cuts lines at 4096 characters, which would make them invalid JSON.
MAX_LINE = 4000
_render = structlog.processors.JSONRenderer()


def _json_line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """Render the event as one line of at most MAX_LINE characters, leaving out the middle of its longest values."""
    line = str(_render(logger, method, event))
    while len(line) > MAX_LINE:
        key, text, taken = max(
            ((k, _text(v), len(_json.dumps(_text(v)))) for k, v in event.items()), key=lambda v: v[2]
        )
        fits = taken - (len(line) - MAX_LINE)
        kept = max(40, int(len(text) * fits / taken) - 12)  # one character may be escaped as twelve
        if kept < len(text) - 3:
            event[key] = f"{text[: kept // 3]} … {text[kept // 3 - kept :]}"
        else:
            del event[key]
        line = str(_render(logger, method, event))
    return line


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json.dumps(value, default=repr)


def configure(level: str = "INFO", *, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Send all logs of the process to `stream` (standard error). `json=None`: JSON unless it is a terminal."""
    stream = stream or sys.stderr
    as_json = json if json is not None else not stream.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any] = (
        [_TRACEBACKS, _json_line]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    # Lines omit their location in the code: finding it takes a third of the time of logging.
    logging._srcfile = None
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # boto logs requests with their signatures at lower levels.
    for noisy in ("urllib3", "PIL", "alembic.runtime.plugins", "boto3", "botocore", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # its warnings contain URLs with their secrets
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
