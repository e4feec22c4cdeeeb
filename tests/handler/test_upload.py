"""`handler.upload`: the PUT of an output: what is tried again, what is not, and what each refusal means."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffmpeg_ops.operation import StopSignal
from handler import upload as module
from handler.upload import upload
from tests.handler.support import PUT, Gateway, free_port
from tests.servers import FileServer, Reply
from wire.envelope import Upload
from wire.errors import Cancelled, JobError
from wire.media_types import MP4

BODY = bytes(range(256)) * 3000  # a few chunks


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.write_bytes(BODY)
    return path


@pytest.fixture
def target(gateway: Gateway) -> Upload:
    return Upload(gateway.server.url(PUT), max_bytes=len(BODY))


def _error(output: Path, target: Upload, stop: StopSignal | None = None) -> JobError:
    with pytest.raises(JobError) as caught:
        upload(output, target, MP4.mime, stop or StopSignal())
    return caught.value


def test_a_file_that_just_fits_is_put_byte_for_byte(gateway: Gateway, output: Path, target: Upload) -> None:
    upload(output, target, MP4.mime, StopSignal())
    [put] = gateway.puts
    assert put.body == BODY
    assert put.headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize(
    "reply", [Reply(503), Reply(500), Reply(502), Reply(429), Reply(408), Reply(507), Reply(drop=True)]
)
def test_a_transient_failure_is_tried_again_from_the_first_byte(
    gateway: Gateway, output: Path, target: Upload, reply: Reply
) -> None:
    gateway.on_put = lambda request: reply if len(gateway.puts) < 3 else Reply(200)
    upload(output, target, MP4.mime, StopSignal())
    assert [put.body for put in gateway.puts] == [BODY] * 3


@pytest.mark.parametrize(
    ("reply", "code", "tries"),
    [
        (Reply(503), "upload_failed", 4),
        (Reply(drop=True), "upload_failed", 4),
        (Reply(507, b"full"), "storage_full", 3),
    ],
)
def test_a_lasting_failure_is_given_up(
    gateway: Gateway, output: Path, target: Upload, reply: Reply, code: str, tries: int
) -> None:
    gateway.on_put = lambda request: reply
    error = _error(output, target)
    assert (error.code, error.retryable) == (code, True)
    assert len(gateway.puts) == tries


@pytest.mark.parametrize("status", [400, 401, 403, 404, 411, 413])
def test_a_refusal_is_not_tried_again(gateway: Gateway, output: Path, target: Upload, status: int) -> None:
    gateway.on_put = lambda request: Reply(status, b"<Error>s3cret-ish</Error>")
    error = _error(output, target)
    assert (error.code, error.retryable) == ("upload_failed", True)
    assert "Error" not in error.message
    assert len(gateway.puts) == 1


def test_a_409_means_superseded(gateway: Gateway, output: Path, target: Upload) -> None:
    gateway.on_put = lambda request: Reply(409)
    assert _error(output, target).code == "superseded"
    assert len(gateway.puts) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    gateway: Gateway, files: FileServer, output: Path, target: Upload, status: int
) -> None:
    gateway.on_put = lambda request: Reply(status, headers={"Location": files.url("/thief")})
    assert _error(output, target).code == "upload_failed"
    assert files.requests == []


def test_a_file_over_the_limit_is_not_sent(gateway: Gateway, output: Path) -> None:
    error = _error(output, Upload(gateway.server.url(PUT), max_bytes=len(BODY) - 1))
    assert (error.code, error.retryable) == ("output_too_large", False)
    assert gateway.server.requests == []


def test_a_refused_connection_is_an_upload_failure(output: Path) -> None:
    error = _error(output, Upload(f"http://127.0.0.1:{free_port()}/x?signature=s3cret", max_bytes=len(BODY)))
    assert error.code == "upload_failed"
    assert "s3cret" not in f"{error.message}{error.detail}"


def test_a_store_that_never_responds_is_tried_again(
    gateway: Gateway, output: Path, target: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", (0.2, 0.2))
    gateway.on_put = lambda request: Reply(pause_s=60) if len(gateway.puts) < 2 else Reply(200)
    upload(output, target, MP4.mime, StopSignal())
    assert len(gateway.puts) == 2


def test_a_stop_between_two_tries_takes_effect(gateway: Gateway, output: Path, target: Upload) -> None:
    stop = StopSignal()

    def refuse(request: object) -> Reply:
        stop.set(Cancelled())
        return Reply(503)

    gateway.on_put = refuse
    assert _error(output, target, stop).code == "cancelled"
    assert len(gateway.puts) == 1


def test_a_stopped_attempt_sends_no_body(gateway: Gateway, output: Path, target: Upload) -> None:
    stop = StopSignal()
    stop.set(Cancelled())
    assert _error(output, target, stop).code == "cancelled"
    assert all(put.body != BODY for put in gateway.puts)
