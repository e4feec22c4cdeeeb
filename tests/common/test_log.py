"""One JSON object per line, for our own lines and those of libraries."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any

import pytest
import structlog

from common import log

IDS = {"job_id": "job_1", "attempt_id": "att_1", "request_id": "req_1"}


@pytest.fixture
def stream(logged: io.StringIO) -> io.StringIO:
    """Receives JSON lines."""
    log.configure(json=True, stream=logged)
    return logged


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_is_one_json_object(stream: io.StringIO) -> None:
    log.configure(json=True, stream=stream)  # a second time: lines must not be doubled
    values = {"size_bytes": 5, "text": "two\nlines", "tail": "y" * 3_000}
    structlog.get_logger("ours").info("job.done", value=object(), raw=b"\xff", error=ValueError("x"), **values)
    logging.getLogger("library").warning("retry %d of %s", 2, "x")
    line, other = lines(stream)
    assert (other["event"], other["level"], other["logger"]) == ("retry 2 of x", "warning", "library")
    assert (line["event"], line["size_bytes"], line["level"], line["logger"]) == ("job.done", 5, "info", "ours")
    assert line.items() >= values.items() and line["timestamp"].endswith("Z")


def test_bound_ids_are_on_our_lines_and_on_those_of_libraries(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(**IDS):
        structlog.get_logger("ours").info("a")
        logging.getLogger("library").error("b")
    assert all(line.items() >= IDS.items() for line in lines(stream))
    assert len(lines(stream)) == 2


def test_ids_end_with_their_block_and_stay_on_their_thread(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(**IDS):
        other = threading.Thread(target=lambda: structlog.get_logger("ours").info("elsewhere"))
        other.start()
        other.join()
    structlog.get_logger("ours").info("after")
    assert all("job_id" not in line for line in lines(stream))


def fail_with_a_secret() -> None:
    password = "hunter2-" + "local"
    raise ValueError(f"{len(password)} characters")


@pytest.mark.parametrize("json_lines", [True, False])
def test_exceptions_are_logged_without_local_variables(stream: io.StringIO, json_lines: bool) -> None:
    log.configure(json=json_lines, stream=stream)
    try:
        fail_with_a_secret()
    except ValueError:
        structlog.get_logger("ours").exception("it.failed")
        logging.getLogger("library").exception("foreign")
    text = stream.getvalue()
    assert "hunter2" not in text and text.startswith("{") is json_lines
    for line in text.splitlines() if json_lines else [text]:
        assert "fail_with_a_secret" in line and "13 characters" in line


def test_lines_below_the_level_are_not_logged(stream: io.StringIO) -> None:
    log.configure("WARNING", json=True, stream=stream)
    structlog.get_logger("ours").info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger("ours").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_http_libraries_do_not_log_urls(stream: io.StringIO) -> None:
    log.configure("DEBUG", json=True, stream=stream)
    logging.getLogger("urllib3.connectionpool").debug("GET /file?signature=secret")
    logging.getLogger("botocore.endpoint").debug("Authorization: secret")
    assert lines(stream) == []


@pytest.mark.parametrize("text", ["x" * 50_000, 'é\n"' * 4_000, "😀" * 3_000, "\x00" * 5_000])
def test_long_lines_are_shortened_in_the_middle(stream: io.StringIO, text: str) -> None:
    with structlog.contextvars.bound_contextvars(**IDS):
        structlog.get_logger("ours").warning("ffmpeg.errors_printed", tail=f"first {text} last", status=1)
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert 2000 < len(written) <= log.MAX_LINE + 1
    (line,) = lines(stream)
    assert line.items() >= {**IDS, "event": "ffmpeg.errors_printed", "status": 1}.items()
    assert line["tail"].startswith("first ") and line["tail"].endswith(" last")


def test_many_long_values_are_all_shortened(stream: io.StringIO) -> None:
    structlog.get_logger("ours").warning(
        "x" * 9_000, **{f"field_{i}": "y" * 900 for i in range(60)}, nested=["z" * 9_000]
    )
    assert len(stream.getvalue()) <= log.MAX_LINE + 1
    (line,) = lines(stream)
    assert line["level"] == "warning"


def test_a_long_traceback_keeps_its_ends(stream: io.StringIO) -> None:
    def deeper(depth: int) -> None:
        if depth == 0:
            raise ValueError("at the bottom")
        deeper(depth - 1)

    try:
        deeper(60)
    except ValueError:
        structlog.get_logger("ours").exception("job.failed_unexpectedly")
    assert len(stream.getvalue()) <= log.MAX_LINE + 1
    (line,) = lines(stream)
    assert "at the bottom" in line["exception"] and "ValueError" in line["exception"]
