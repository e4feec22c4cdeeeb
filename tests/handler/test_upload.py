"""`handler.upload`: the PUT of an output: what is tried again, what is not, and what each refusal means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.operation import StopSignal
from handler import upload as module
from handler.upload import upload
from scripts.stack import free_port
from tests.handler.support import PUT, Gateway
from tests.servers import Reply
from wire.envelope import Upload
from wire.errors import Cancelled, JobError
from wire.media_types import MP4

BODY = bytes(range(256)) * 3000  # a few chunks


@pytest.fixture
def target(gateway: Gateway) -> Upload:
    return Upload(gateway.server.url(PUT), max_bytes=len(BODY))


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., None]:
    """Uploads a file of BODY."""
    (tmp_path / "output").write_bytes(BODY)

    def put(target: Upload, stop: StopSignal | None = None) -> None:
        upload(tmp_path / "output", target, MP4.mime, stop or StopSignal())

    return put


@pytest.fixture
def failed(put: Callable[..., None]) -> Callable[..., JobError]:
    """The error of an upload that must fail."""

    def error(*arguments: Any) -> JobError:
        with pytest.raises(JobError) as caught:
            put(*arguments)
        return caught.value

    return error


Put, Failed = Callable[..., None], Callable[..., JobError]


def test_a_file_that_just_fits_is_put_byte_for_byte(gateway: Gateway, put: Put, target: Upload) -> None:
    put(target)
    [request] = gateway.puts
    assert request.body == BODY
    assert request.headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize(
    "reply", [Reply(503), Reply(500), Reply(502), Reply(429), Reply(408), Reply(507), Reply(drop=True)]
)
def test_a_transient_failure_is_tried_again_from_the_first_byte(
    gateway: Gateway, put: Put, target: Upload, reply: Reply
) -> None:
    gateway.on_put = lambda request: reply if len(gateway.puts) < 3 else Reply(200)
    put(target)
    assert [request.body for request in gateway.puts] == [BODY] * 3


@pytest.mark.parametrize(
    ("reply", "code", "tries"),
    [
        (Reply(503), "upload_failed", 4),
        (Reply(drop=True), "upload_failed", 4),
        (Reply(507, b"full"), "storage_full", 3),
        (Reply(409), "superseded", 1),
        *(
            (Reply(status, b"<Error>s3cret-ish</Error>"), "upload_failed", 1)
            for status in (400, 401, 403, 404, 411, 413)
        ),
        *((Reply(status, headers={"Location": "/thief"}), "upload_failed", 1) for status in (301, 302, 303, 307, 308)),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else str(value),
)
def test_a_lasting_failure_is_given_up_and_a_refusal_or_redirect_at_once(
    gateway: Gateway, failed: Failed, target: Upload, reply: Reply, code: str, tries: int
) -> None:
    gateway.on_put = lambda request: reply
    error = failed(target)
    assert (error.code, error.retryable) == (code, code != "superseded")
    assert "Error" not in error.message
    assert len(gateway.puts) == len(gateway.server.requests) == tries


def test_a_file_over_the_limit_is_not_sent(gateway: Gateway, failed: Failed) -> None:
    error = failed(Upload(gateway.server.url(PUT), max_bytes=len(BODY) - 1))
    assert (error.code, error.retryable) == ("output_too_large", False)
    assert gateway.server.requests == []


def test_a_refused_connection_is_an_upload_failure(failed: Failed) -> None:
    error = failed(Upload(f"http://127.0.0.1:{free_port()}/x?signature=s3cret", max_bytes=len(BODY)))
    assert error.code == "upload_failed"
    assert "s3cret" not in f"{error.message}{error.detail}"


def test_a_store_that_never_responds_is_tried_again(
    gateway: Gateway, put: Put, target: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", (0.2, 0.2))
    gateway.on_put = lambda request: Reply(pause_s=60) if len(gateway.puts) < 2 else Reply(200)
    put(target)
    assert len(gateway.puts) == 2


@pytest.mark.parametrize("when", ["between two tries", "before the first"])
def test_a_stop_takes_effect(gateway: Gateway, failed: Failed, target: Upload, when: str) -> None:
    stop = StopSignal()

    def refuse(request: object) -> Reply:
        stop.set(Cancelled())
        return Reply(503)

    gateway.on_put = refuse
    if when == "before the first":
        stop.set(Cancelled())
    assert failed(target, stop).code == "cancelled"
    sent = [request.body for request in gateway.puts]
    assert sent == [BODY] if when == "between two tries" else BODY not in sent
