"""One attempt from claim to report: what it makes, how it fails, what it leaves behind."""

from __future__ import annotations

import io
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import safe_http
from common.clock import to_rfc3339
from ffmpeg_ops.engine import sandbox
from ffmpeg_ops.operation import StopSignal
from handler import attempt as job
from handler.settings import Settings
from scripts.stack import free_port
from tests.handler.support import EVENT_TOKEN, FOREVER_S, Gateway, Job, deaf_server
from tests.servers import FileServer, RawServer, Reply
from wire.envelope import EventSchema, ResultSchema, StatsSchema
from wire.errors import JobTooLarge

SECRET = "s3cret"


@pytest.fixture(params=["caption", "img2vid", "adiciona_audio"])
def each(request: pytest.FixtureRequest) -> Job:
    """Every operation in turn."""
    each: Job = request.getfixturevalue(request.param)
    return each


def test_an_attempt_claims_uploads_its_output_and_reports_its_result(each: Job, gateway: Gateway) -> None:
    each.settings = replace(each.settings, runpod_gpu_name="NVIDIA+GeForce+RTX+4090")
    result = each.result()
    assert gateway.milestones == ["started", "completed"] == [gateway.types[0], gateway.types[-1]]
    assert len({event["claim_id"] for event in gateway.events}) == 1
    for event in gateway.events:
        EventSchema().load(event)
    [put] = gateway.puts
    size = len(put.body)
    assert (put.headers["Content-Length"], put.headers["Content-Type"]) == (str(size), "video/mp4")
    assert not {"Transfer-Encoding", "Authorization"} & set(put.headers)
    assert put.body[4:8] == b"ftyp"
    assert set(result) == {"outputs", "stats"} and result["outputs"] == {"video": {"size_bytes": size}}
    assert (result["stats"]["size_bytes"], result["stats"]["gpu"]) == (size, "NVIDIA GeForce RTX 4090")
    assert set(result["stats"]) - {"warnings"} == set(StatsSchema().fields) - {"warnings", "gpu_failure"}
    assert result["stats"].get("warnings", []) == list(sandbox.warnings())
    assert all(value is not None for value in result["stats"].values())
    assert gateway.events[-1]["result"] == json.loads(json.dumps(result))


def test_every_job_of_a_worker_whose_sandbox_is_not_whole_says_so_once(
    caption: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "gaps", lambda: ("one thing is lacking", "another too"))
    warnings = caption.result(style={"font": "No Such Font"})["stats"]["warnings"]
    assert warnings[-1] == "the worker's sandbox is not whole: one thing is lacking; another too"
    assert len(warnings) == 2 and "No Such Font" in warnings[0], "those of the job are kept"


def test_the_bytes_fetched_are_those_of_the_assets_equal_urls_once(
    caption: Job, adiciona_audio: Job, files: FileServer
) -> None:
    sizes = {path: len(reply.body) for path, reply in files.routes.items()}
    fetched = caption.result()["stats"]["fetched_bytes"]
    assert fetched == sizes["/video.mp4"] + sizes["/captions.srt"]
    fetched = adiciona_audio.result(url_audio=files.url("/video.mp4"))["stats"]["fetched_bytes"]
    assert fetched == sizes["/video.mp4"]


def test_headers_of_the_upload_are_sent(caption: Job, gateway: Gateway) -> None:
    delivery = gateway.delivery()
    delivery["uploads"]["video"]["headers"] = {"Content-Type": "application/x-odd", "x-amz-tagging": "a=b"}
    caption.result(delivery=delivery)
    assert gateway.puts[0].headers.items() >= delivery["uploads"]["video"]["headers"].items()


def test_progress_never_goes_back_and_is_reported(img2vid: Job, gateway: Gateway) -> None:
    attempt = img2vid.ended(duration=1)
    reported = [event["progress"] for event in gateway.of_type("progress")]
    for values in (attempt.progress, reported):
        assert values == sorted(values) and max(values) <= 1
    assert any(0 < value < 1 for value in reported)


def test_without_delivery_every_output_has_its_own_path_here(img2vid: Job) -> None:
    results = [img2vid.result(delivery=None) for _ in range(2)]
    paths = {Path(result["outputs"]["video"]["path"]) for result in results}
    assert len(paths) == 2 and {path.parent for path in paths} == {img2vid.settings.output_dir}
    assert {path.stat().st_size for path in paths} == {result["stats"]["size_bytes"] for result in results}
    assert all(ResultSchema().load(result) == result for result in results)


def test_without_upload_the_output_stays_here_and_the_end_is_reported(img2vid: Job, gateway: Gateway) -> None:
    result = img2vid.result(delivery=gateway.delivery(uploads={}))
    assert Path(result["outputs"]["video"]["path"]).name == "img2vid-att_1-video.mp4"
    assert gateway.types[-1] == "completed"


def test_without_events_the_output_is_uploaded_and_nothing_reported(caption: Job, gateway: Gateway) -> None:
    caption.result(delivery=gateway.delivery(events=None))
    assert (len(gateway.puts), gateway.events) == (1, [])


# ---- inputs that cannot be run


@pytest.mark.parametrize("change", [{"operation": "levitate"}, {"font": "Comic Sans"}, {"duration": -1}])
def test_what_a_newer_gateway_accepts_needs_a_newer_worker(
    img2vid: Job, gateway: Gateway, change: dict[str, Any]
) -> None:
    error = img2vid.error(**change)
    assert (error.code, error.retryable) == ("worker_outdated", True)
    assert "operation" in change or next(iter(change)) in error.message
    assert gateway.of_type("failed")[0]["error"]["code"] == "worker_outdated"


@pytest.mark.parametrize("change", [{"duration": -1}, {"url_image": "file:///etc/passwd"}])
def test_without_a_gateway_an_invalid_value_is_the_job_s_fault_and_named(img2vid: Job, change: dict[str, Any]) -> None:
    error = img2vid.error(delivery=None, **change)
    assert (error.code, error.retryable) == ("invalid_params", False)
    assert next(iter(change)) in error.message


def test_a_broken_delivery_is_refused_before_anything_is_done(
    img2vid: Job, gateway: Gateway, files: FileServer
) -> None:
    error = img2vid.error(delivery=gateway.delivery(attempt_id="../../etc"))
    assert error.code == "invalid_params"
    assert files.requests == gateway.events == []


# ---- assets that cannot be used


@pytest.mark.parametrize(
    ("reply", "code", "tries"),
    [
        (Reply(404), "asset_not_found", 1),
        (Reply(403), "asset_not_found", 1),
        (Reply(500), "asset_unavailable", 3),
        (Reply(503), "asset_unavailable", 6),
        (Reply(drop=True), "asset_unavailable", 3),
        (Reply(body=b"half", content_length=1000), "asset_unavailable", 3),
        (Reply(body=b""), "asset_empty", 1),
        (Reply(body=b"x" * 5_000_001), "asset_too_large", 1),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else str(value),
)
def test_a_server_that_does_not_return_the_file(
    caption: Job, gateway: Gateway, files: FileServer, logged: io.StringIO, reply: Reply, code: str, tries: int
) -> None:
    files.routes["/bad"] = reply
    error = caption.error(url_video=files.url("/bad?password=s3cret"))
    _is_clear(error.message, "url_video")
    assert (error.code, error.retryable) == (code, False)
    assert len([r for r in files.requests if r.path.startswith("/bad")]) == tries
    assert gateway.of_type("failed") == [{**gateway.events[-1], "error": error.to_wire()}]
    assert "attempt.ended" in logged.getvalue()
    _has_no_secret(logged)


def _is_clear(message: str, param: str) -> None:
    """It names the param, and repeats nothing of the URL."""
    assert message.startswith(f"{param}: ")
    for part in ("http://", "127.0.0.1", SECRET, "password", "/bad"):
        assert part not in message


def _has_no_secret(logged: io.StringIO) -> None:
    assert not [secret for secret in (SECRET, EVENT_TOKEN) if secret in logged.getvalue()]


@pytest.mark.parametrize("kind", ["refuses", "never accepts", "never responds"])
def test_a_server_that_cannot_be_reached(
    caption: Job, files: FileServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(safe_http, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(safe_http, "CONNECT_TIMEOUT_S", 0.2)
    files.routes["/bad"] = Reply(pause_s=60)
    with deaf_server() as deaf:
        closed = f"http://127.0.0.1:{free_port()}"
        origin = {"refuses": closed, "never accepts": deaf, "never responds": files.origin}[kind]
        caption.settings = replace(caption.settings, fetch_allow_origins=(files.origin, origin))
        error = caption.error(url_video=f"{origin}/bad?password=s3cret")
    _is_clear(error.message, "url_video")
    assert error.code == "asset_unavailable"


def test_a_server_that_trickles_ends_with_the_attempts_time(caption: Job, gateway: Gateway, files: FileServer) -> None:
    files.routes["/bad"] = Reply(body=b"x" * 1000, trickle_s=0.05)
    attempt = caption.start(url_video=files.url("/bad"), delivery=gateway.delivery(limits={"timeout_s": 1}))
    attempt.join(FOREVER_S / 2)
    assert attempt.failure.code in {"job_timeout", "asset_unavailable"} and not attempt.failure.retryable


@pytest.mark.parametrize("url", ["http://169.254.169.254/bad", "http://[::1]/bad", "http://me:s3cret@{}/bad", "{}/bad"])
def test_a_private_address_is_forbidden_also_behind_a_redirect_or_credentials(
    caption: Job, files: FileServer, gateway: Gateway, url: str
) -> None:
    files.routes["/bad"] = Reply(302, headers={"Location": gateway.server.url("/secret")})
    origin = files.origin if url.startswith("{") else files.origin.removeprefix("http://")
    error = caption.error(url_video=url.format(origin), delivery=None)
    _is_clear(error.message, "url_video")
    assert (error.code, error.retryable) == ("asset_forbidden", False)
    assert "POST /files" in error.message
    assert gateway.server.requests == []


# ---- secrets


def test_no_secret_reaches_the_log_when_a_connection_fails(caption: Job, logged: io.StringIO) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with closing(RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nno colon here\r\n\r\nabc")) as odd:
        caption.settings = replace(caption.settings, fetch_allow_origins=(closed, odd.origin))
        for base in (closed, odd.origin, "http://user:s3cret@10.0.0.1"):
            caption.error(url_video=f"{base}/bad?password=s3cret")
    _has_no_secret(logged)


@pytest.mark.parametrize("reply", [Reply(drop=True), Reply(503, b"try later"), Reply(403)])
def test_no_secret_of_the_upload_reaches_the_log_or_the_error(
    caption: Job, gateway: Gateway, logged: io.StringIO, reply: Reply
) -> None:
    gateway.on_put = lambda request: reply
    error = caption.error()
    assert error.code == "upload_failed"
    assert SECRET not in f"{error.message}{error.detail}"
    _has_no_secret(logged)


def test_no_secret_reaches_the_log_when_all_goes_well(caption: Job, files: FileServer, logged: io.StringIO) -> None:
    caption.result(url_video=files.url("/video.mp4?password=s3cret"))
    assert "attempt.completed" in logged.getvalue()
    _has_no_secret(logged)


def test_every_line_of_the_log_names_job_and_attempt(img2vid: Job, gateway: Gateway, logged: io.StringIO) -> None:
    gateway.on_event = lambda event: Reply(500) if event["type"] == "progress" else Reply(200, b"{}")
    gateway.on_put = lambda request: Reply(503) if len(gateway.puts) == 1 else Reply(200)
    img2vid.result(duration=1)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert {"attempt.started", "event.refused", "output.upload_failed", "attempt.completed"} <= {
        x["event"] for x in lines
    }
    nameless = [x for x in lines if x.get("attempt_id") != "att_1" or x.get("job_id") != "job_1"]
    assert nameless == []


# ---- time, unexpected errors, leftovers


def test_a_worker_whose_clock_is_wrong_still_does_the_job(caption: Job, gateway: Gateway) -> None:
    caption.result(delivery=gateway.delivery(deadline=to_rfc3339(1_700_000_000_000)))


def test_a_busy_server_is_waited_for_as_long_as_it_says(
    caption: Job, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("handler.fetch.BUSY_S", 60.0)
    monkeypatch.setattr("handler.fetch._MAX_RETRY_AFTER_S", 30.0)
    monkeypatch.setattr(StopSignal, "wait", lambda self, seconds: pauses.append(seconds))
    video = files.routes["/video.mp4"]
    busy = iter([Reply(503, headers={"Retry-After": "2"}), Reply(429, headers={"Retry-After": "900"}), video])
    files.routes["/video.mp4"] = lambda request: next(busy)  # type: ignore[assignment,return-value]
    caption.result(delivery=None)
    assert pauses == [2, 30]


def test_an_upload_that_never_ends_is_stopped_and_reported(
    img2vid: Job, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "UPLOAD_S", -58.5)  # of 60 s for the attempt, 1.5 are for all until the upload has ended
    gateway.on_put = lambda request: Reply(pause_s=FOREVER_S)
    error = img2vid.error(delivery=gateway.delivery(limits={"timeout_s": 60}))
    assert error.code == "upload_failed" and error.retryable
    assert [event["error"]["code"] for event in gateway.of_type("failed")] == ["upload_failed"]


@pytest.mark.parametrize(
    ("part", "raised", "code"),
    [
        ("fetch_all", RuntimeError("inner s3cret"), "worker_error"),
        ("private_directory", OSError(28, "No space left on device"), "worker_disk_full"),
    ],
)
def test_an_unexpected_error_or_a_full_disk_is_the_worker_s_fault(
    caption: Job, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, part: str, raised: Exception, code: str
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise raised

    monkeypatch.setattr(job, part, broken)
    error = caption.error()
    assert (error.code, error.retryable) == (code, True)
    assert gateway.events[-1]["error"] == error.to_wire() and SECRET not in json.dumps(gateway.events)


@pytest.mark.parametrize("file", ["captions.srt", "page.html"])
def test_nothing_is_left_behind(caption: Job, settings: Settings, files: FileServer, file: str) -> None:
    caption.ended(url_srt=files.url(f"/{file}"), delivery=None)
    assert list(settings.work_dir.glob("attempt-*")) == []


def test_a_job_that_takes_too_much_memory_ends_for_good(each: Job, gateway: Gateway, settings: Settings) -> None:
    each.settings = replace(each.settings, worker_max_memory_bytes=1_000_000)
    error = each.error()
    assert isinstance(error, JobTooLarge) and "0.0005 GB" in error.message
    assert gateway.milestones == ["started", "failed"]
    assert gateway.events[-1]["error"]["retryable"] is False
    assert list(settings.work_dir.glob("attempt-*")) == []
