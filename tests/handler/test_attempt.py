"""One attempt from claim to report: what it makes, how it fails, what it leaves behind."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import safe_http
from common.clock import to_rfc3339
from ffmpeg_ops.operation import StopSignal
from handler import attempt as job
from handler.attempt import run_attempt
from handler.settings import Settings
from tests.handler.conftest import Job
from tests.handler.support import (
    EVENT_TOKEN,
    FOREVER_S,
    Attempt,
    Gateway,
    deaf_server,
    failure,
    free_port,
    raw_server,
)
from tests.servers import PATIENCE_S, FileServer, Reply
from wire.envelope import EventSchema, ResultSchema, StatsSchema

OPERATIONS = ("caption", "img2vid", "adiciona_audio")


@pytest.fixture(params=OPERATIONS)
def each(request: pytest.FixtureRequest) -> Job:
    """The input of every operation in turn."""
    return request.getfixturevalue(request.param)


def test_an_attempt_claims_reports_and_ends(each: Job, gateway: Gateway, settings: Settings) -> None:
    run_attempt(each(delivery=gateway.delivery()), settings)
    assert gateway.types[0] == "started"
    assert gateway.types[-1] == "completed"
    assert set(gateway.types[1:-1]) <= {"progress"}
    assert len({event["claim_id"] for event in gateway.events}) == 1
    for event in gateway.events:
        EventSchema().load(event)


def test_the_output_is_put_as_it_is_with_its_length(
    each: Job, gateway: Gateway, settings: Settings, media: Path
) -> None:
    result = run_attempt(each(delivery=gateway.delivery()), settings)
    [put] = gateway.puts
    assert put.headers["Content-Length"] == str(len(put.body)) == str(result["stats"]["size_bytes"])
    assert put.headers["Content-Type"] == "video/mp4"
    assert "Transfer-Encoding" not in put.headers
    assert "Authorization" not in put.headers
    path = settings.work_dir / "put.mp4"
    path.write_bytes(put.body)
    assert _codecs(path)[0] == "h264"


def _codecs(path: Path) -> list[str]:
    command = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout.split()


def test_the_bytes_fetched_are_those_of_the_assets_equal_urls_once(
    caption: Job, adiciona_audio: Job, files: FileServer, settings: Settings
) -> None:
    sizes = {path: len(reply.body or b"") for path, reply in files.routes.items()}
    stats = run_attempt(caption(), settings)["stats"]
    assert stats["fetched_bytes"] == sizes["/video.mp4"] + sizes["/captions.srt"]
    stats = run_attempt(adiciona_audio(url_audio=files.url("/video.mp4")), settings)["stats"]
    assert stats["fetched_bytes"] == sizes["/video.mp4"]


def test_the_stats_are_complete_and_reported(each: Job, gateway: Gateway, settings: Settings) -> None:
    settings = replace(settings, runpod_gpu_name="NVIDIA+GeForce+RTX+4090")
    result = run_attempt(each(delivery=gateway.delivery()), settings)
    assert set(result) == {"outputs", "stats"}
    assert result["outputs"] == {"video": {"size_bytes": len(gateway.puts[0].body)}}
    assert result["stats"]["gpu"] == "NVIDIA GeForce RTX 4090"
    assert set(result["stats"]) == set(StatsSchema().fields) - {"warnings"}
    assert all(value is not None for value in result["stats"].values())
    assert gateway.events[-1]["result"] == json.loads(json.dumps(result))


def test_headers_of_the_upload_are_sent(caption: Job, gateway: Gateway, settings: Settings) -> None:
    delivery = gateway.delivery()
    delivery["uploads"]["video"]["headers"] = {"Content-Type": "application/x-odd", "x-amz-tagging": "a=b"}
    run_attempt(caption(delivery=delivery), settings)
    assert gateway.puts[0].headers["Content-Type"] == "application/x-odd"
    assert gateway.puts[0].headers["x-amz-tagging"] == "a=b"


def test_progress_never_goes_back_and_is_reported(img2vid: Job, gateway: Gateway, settings: Settings) -> None:
    attempt = Attempt(img2vid(duration=1, delivery=gateway.delivery()), settings).start()
    attempt.join()
    told = [event["progress"] for event in gateway.of_type("progress")]
    assert attempt.progress == sorted(attempt.progress)
    assert told == sorted(told)
    assert any(0 < value < 1 for value in told)
    assert max(attempt.progress) <= 1


def test_without_delivery_the_output_stays_here(each: Job, settings: Settings) -> None:
    result = run_attempt(each(), settings)
    path = Path(result["outputs"]["video"]["path"])
    assert path.parent == settings.output_dir
    assert path.stat().st_size == result["stats"]["size_bytes"]
    assert ResultSchema().load(result) == result


def test_two_outputs_without_delivery_have_different_paths(caption: Job, settings: Settings) -> None:
    paths = {run_attempt(caption(), settings)["outputs"]["video"]["path"] for _ in range(2)}
    assert len(paths) == 2


def test_without_upload_the_output_stays_here_and_the_end_is_reported(
    img2vid: Job, gateway: Gateway, settings: Settings
) -> None:
    result = run_attempt(img2vid(delivery=gateway.delivery(uploads={})), settings)
    assert Path(result["outputs"]["video"]["path"]).name == "img2vid-att_1-video.mp4"
    assert gateway.types[-1] == "completed"


def test_without_events_the_output_is_uploaded_and_nothing_reported(
    caption: Job, gateway: Gateway, settings: Settings
) -> None:
    run_attempt(caption(delivery=gateway.delivery(events=None)), settings)
    assert len(gateway.puts) == 1
    assert gateway.events == []


def test_unknown_keys_of_a_newer_gateway_are_ignored(caption: Job, gateway: Gateway, settings: Settings) -> None:
    delivery = gateway.delivery(version=99, colour="blue")
    delivery["limits"]["new_limit"] = delivery["events"]["new"] = delivery["uploads"]["video"]["new"] = 1
    assert "stats" in run_attempt(caption(delivery=delivery), settings)


# ---- inputs that cannot be run


def test_an_unknown_operation_means_an_outdated_worker(gateway: Gateway, settings: Settings) -> None:
    error = failure({"operation": "levitate", "delivery": gateway.delivery()}, settings)
    assert (error.code, error.retryable) == ("worker_outdated", True)
    assert gateway.of_type("failed")[0]["error"]["code"] == "worker_outdated"


def test_an_unknown_param_means_an_outdated_worker(caption: Job, settings: Settings) -> None:
    error = failure(caption(font="Comic Sans"), settings)
    assert error.code == "worker_outdated"
    assert "font" in error.message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"duration": -1}, "duration"),
        ({"duration": "nan"}, "duration"),
        ({"frame_rate": 1e9}, "frame_rate"),
        ({"url_image": "file:///etc/passwd"}, "url_image"),
        ({"url_image": None}, "url_image"),
        ({"url_image": ["http://127.0.0.1/"]}, "url_image"),
    ],
)
def test_bad_values_are_the_jobs_fault_and_named(
    img2vid: Job, settings: Settings, change: dict[str, Any], named: str
) -> None:
    error = failure(img2vid(**change), settings)
    assert (error.code, error.retryable) == ("invalid_params", False)
    assert named in error.message


@pytest.mark.parametrize("raw", [None, "caption", {}, {"operation": 1}])
def test_an_input_without_an_operation_is_refused(raw: object, settings: Settings) -> None:
    assert failure(raw, settings).code == "invalid_params"


@pytest.mark.parametrize(
    "change",
    [
        {"attempt_id": "../../etc"},
        {"attempt_id": "a/b"},
        {"attempt_id": "att\n"},
        {"attempt_id": ""},
        {"deadline": "tomorrow"},
        {"deadline": 5},
        {"limits": {"timeout_s": 0}},
        {"uploads": {"video": {"url": "file:///etc/x", "max_bytes": 5}}},
        {"events": {"url": "http://127.0.0.1/"}},
    ],
)
def test_a_broken_delivery_is_refused_before_anything_is_done(
    img2vid: Job, gateway: Gateway, settings: Settings, files: FileServer, change: dict[str, Any]
) -> None:
    error = failure(img2vid(delivery=gateway.delivery(**change)), settings)
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
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer, reply: Reply, code: str, tries: int
) -> None:
    files.routes["/bad"] = reply
    url = files.url("/bad?password=s3cret")
    error = failure(caption(url_video=url, delivery=gateway.delivery()), settings)
    _is_clear(error.message, "url_video")
    assert (error.code, error.retryable) == (code, False)
    assert len([r for r in files.requests if r.path.startswith("/bad")]) == tries
    assert gateway.of_type("failed") == [{**gateway.events[-1], "error": error.to_wire()}]


def _is_clear(message: str, param: str) -> None:
    """It names the param, and repeats nothing of the URL."""
    assert message.startswith(f"{param}: ")
    for part in ("http://", "127.0.0.1", "s3cret", "password", "/bad"):
        assert part not in message


def test_a_server_error_that_passes_costs_a_retry_only(caption: Job, settings: Settings, files: FileServer) -> None:
    good, replies = files.routes["/video.mp4"], [Reply(500), Reply(body=b"half", content_length=99999)]
    files.routes["/flaky"] = lambda request: replies.pop(0) if replies else good  # type: ignore[return-value]
    assert "stats" in run_attempt(caption(url_video=files.url("/flaky")), settings)


def _allowing(settings: Settings, origin: str) -> Settings:
    return Settings(**{**vars(settings), "fetch_allow_origins": (*settings.fetch_allow_origins, origin)})


@pytest.mark.parametrize("kind", ["refuses", "never accepts", "never responds"])
def test_a_server_that_cannot_be_reached(
    caption: Job, settings: Settings, files: FileServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(safe_http, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(safe_http, "CONNECT_TIMEOUT_S", 0.2)
    files.routes["/bad"] = Reply(pause_s=60)
    with deaf_server() as deaf:
        origins = {
            "refuses": f"http://127.0.0.1:{free_port()}",
            "never accepts": deaf,
            "never responds": files.origin,
        }
        raw = caption(url_video=f"{origins[kind]}/bad?password=s3cret")
        error = failure(raw, _allowing(settings, origins[kind]))
    _is_clear(error.message, "url_video")
    assert error.code == "asset_unavailable"


def test_a_server_that_trickles_ends_with_the_attempts_time(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    files.routes["/bad"] = Reply(body=b"x" * 1000, trickle_s=0.05)
    delivery = gateway.delivery(limits={"timeout_s": 1})
    attempt = Attempt(caption(url_video=files.url("/bad"), delivery=delivery), settings).start()
    attempt.join(FOREVER_S / 2)
    assert attempt.error is not None
    assert attempt.error.code in {"job_timeout", "asset_unavailable"}
    assert not attempt.error.retryable


def test_too_large_is_seen_without_a_content_length(caption: Job, settings: Settings, gateway: Gateway) -> None:
    delivery = gateway.delivery(limits={"max_asset_bytes": 1000})
    with raw_server(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1_000_000) as origin:
        raw = caption(url_video=f"{origin}/bad", delivery=delivery)
        error = failure(raw, _allowing(settings, origin))
    _is_clear(error.message, "url_video")
    assert error.code == "asset_too_large"
    assert "1000" in error.message


def test_a_content_length_that_lies_does_not_help(caption: Job, settings: Settings, gateway: Gateway) -> None:
    delivery = gateway.delivery(limits={"max_asset_bytes": 1000})
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
    with raw_server(head + b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n0\r\n\r\n") as origin:
        error = failure(caption(url_video=f"{origin}/bad", delivery=delivery), _allowing(settings, origin))
    assert error.code == "asset_too_large"


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\nx"


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", *(LENGTH % it for it in (b"many", b"-1", b"9" * 30, b""))])
def test_an_invalid_response_is_not_the_workers_fault(caption: Job, settings: Settings, answer: bytes) -> None:
    with raw_server(answer) as origin:
        error = failure(caption(url_video=f"{origin}/bad"), _allowing(settings, origin))
    _is_clear(error.message, "url_video")
    assert not error.retryable


@pytest.mark.parametrize(
    ("operation", "param", "file", "code", "says"),
    [
        ("caption", "url_video", "page.html", "asset_invalid", "web page"),
        ("caption", "url_video", "image.png", "asset_invalid", "PNG"),
        ("caption", "url_video", "sound.wav", "asset_invalid", "audio"),
        ("caption", "url_video", "captions.srt", "asset_invalid", "subtitle"),
        ("caption", "url_srt", "page.html", "asset_invalid", "web page"),
        ("caption", "url_srt", "video.mp4", "asset_invalid", "MP4"),
        ("img2vid", "url_image", "video.mp4", "asset_invalid", "MP4"),
        ("img2vid", "url_image", "page.html", "asset_invalid", "web page"),
        ("adiciona_audio", "url_audio", "silent.mp4", "asset_has_no_audio", "audio"),
        ("adiciona_audio", "url_audio", "image.png", "asset_invalid", "PNG"),
        ("adiciona_audio", "url_audio", "page.html", "asset_invalid", "web page"),
        ("adiciona_audio", "url_video", "sound.wav", "asset_invalid", "audio"),
    ],
)
def test_a_file_of_the_wrong_kind_says_what_it_is(
    request: pytest.FixtureRequest,
    settings: Settings,
    files: FileServer,
    operation: str,
    param: str,
    file: str,
    code: str,
    says: str,
) -> None:
    make: Job = request.getfixturevalue(operation)
    error = failure(make(**{param: files.url(f"/{file}?password=s3cret")}), settings)
    _is_clear(error.message, param)
    assert (error.code, error.retryable) == (code, False)
    assert says.lower() in error.message.lower()


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/bad",
        "http://10.0.0.1/bad",
        "http://[::1]/bad",
        "http://127.0.0.1:1/bad",
        "http://0.0.0.0/bad",
    ],
)
def test_an_inside_address_is_forbidden(caption: Job, settings: Settings, url: str) -> None:
    error = failure(caption(url_video=url), settings)
    _is_clear(error.message, "url_video")
    assert (error.code, error.retryable) == ("asset_forbidden", False)


def test_a_redirect_to_an_inside_address_is_forbidden(
    caption: Job, settings: Settings, files: FileServer, gateway: Gateway
) -> None:
    files.routes["/bad"] = Reply(302, headers={"Location": gateway.server.url("/secret")})
    error = failure(caption(url_video=files.url("/bad")), settings)
    assert error.code == "asset_forbidden"
    assert gateway.server.requests == []


def test_credentials_do_not_open_an_allowed_origin_by_another_name(
    caption: Job, settings: Settings, files: FileServer
) -> None:
    url = files.url("/bad").replace("http://", "http://user:s3cret@")
    error = failure(caption(url_video=url), settings)
    _is_clear(error.message, "url_video")
    assert error.code == "asset_forbidden"


# ---- secrets


@pytest.mark.parametrize(
    "reply", [Reply(404), Reply(500), Reply(drop=True), Reply(body=b"half", content_length=9), Reply(body=b"")]
)
def test_no_secret_of_an_assets_url_reaches_the_log(
    caption: Job, settings: Settings, files: FileServer, gateway: Gateway, logged: io.StringIO, reply: Reply
) -> None:
    files.routes["/bad"] = reply
    failure(caption(url_video=files.url("/bad?password=s3cret"), delivery=gateway.delivery()), settings)
    assert "attempt.ended" in logged.getvalue()
    _has_no_secret(logged)


def _has_no_secret(logged: io.StringIO) -> None:
    for secret in ("s3cret", EVENT_TOKEN):
        assert secret not in logged.getvalue()


def test_no_secret_reaches_the_log_when_a_connection_fails(
    caption: Job, settings: Settings, gateway: Gateway, logged: io.StringIO
) -> None:
    deaf = f"http://127.0.0.1:{free_port()}"
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nno colon here\r\n\r\nabc") as odd:
        for base in (deaf, odd, "http://user:s3cret@10.0.0.1"):
            raw = caption(url_video=f"{base}/bad?password=s3cret", delivery=gateway.delivery())
            failure(raw, replace(settings, fetch_allow_origins=(deaf, odd)))
    _has_no_secret(logged)


@pytest.mark.parametrize("reply", [Reply(drop=True), Reply(503, b"try later"), Reply(403)])
def test_no_secret_of_the_upload_reaches_the_log_or_the_error(
    caption: Job, settings: Settings, gateway: Gateway, logged: io.StringIO, reply: Reply
) -> None:
    gateway.on_put = lambda request: reply
    error = failure(caption(delivery=gateway.delivery()), settings)
    assert error.code == "upload_failed"
    assert "s3cret" not in f"{error.message}{error.detail}"
    _has_no_secret(logged)


def test_no_secret_reaches_the_log_when_all_goes_well(
    caption: Job, settings: Settings, files: FileServer, gateway: Gateway, logged: io.StringIO
) -> None:
    run_attempt(caption(url_video=files.url("/video.mp4?password=s3cret"), delivery=gateway.delivery()), settings)
    assert "attempt.completed" in logged.getvalue()
    _has_no_secret(logged)


def test_every_line_of_the_log_names_job_and_attempt(
    img2vid: Job, settings: Settings, gateway: Gateway, logged: io.StringIO
) -> None:
    gateway.on_event = lambda event: Reply(500) if event["type"] == "progress" else Reply(200, b"{}")
    gateway.on_put = lambda request: Reply(503) if len(gateway.puts) == 1 else Reply(200)
    run_attempt(img2vid(duration=1, delivery=gateway.delivery()), settings)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert {"attempt.started", "event.refused", "upload.failed", "attempt.completed"} <= {x["event"] for x in lines}
    nameless = [x for x in lines if x.get("attempt_id") != "att_1" or x.get("job_id") != "job_1"]
    assert nameless == []


# ---- time, unexpected errors, leftovers


def test_a_worker_whose_clock_is_wrong_still_does_the_job(caption: Job, settings: Settings, gateway: Gateway) -> None:
    run_attempt(caption(delivery=gateway.delivery(deadline=to_rfc3339(1_700_000_000_000))), settings)
    assert len(gateway.puts) == 1


def test_a_value_that_a_newer_gateway_let_through_is_for_a_newer_worker(
    img2vid: Job, settings: Settings, gateway: Gateway
) -> None:
    error = failure(img2vid(duration=-1, delivery=gateway.delivery()), settings)
    assert (error.code, error.retryable) == ("worker_outdated", True)


def test_a_busy_server_is_waited_for_as_long_as_it_says(
    caption: Job, settings: Settings, gateway: Gateway, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("handler.fetch._MAX_RETRY_AFTER_S", 30.0)
    monkeypatch.setattr(StopSignal, "wait", lambda self, seconds: pauses.append(seconds))
    video = files.routes["/video.mp4"]
    busy = iter([Reply(503, headers={"Retry-After": "2"}), Reply(429, headers={"Retry-After": "900"}), video])
    files.routes["/video.mp4"] = lambda request: next(busy)  # type: ignore[assignment,return-value]
    run_attempt(caption(), settings)
    assert pauses == [2, 30]


def test_work_that_takes_too_long_is_stopped_and_reported(img2vid: Job, settings: Settings, gateway: Gateway) -> None:
    delivery = gateway.delivery(limits={"timeout_s": 1})
    error = failure(img2vid(duration=60, frame_rate=60, delivery=delivery), settings)
    assert error.code == "job_timeout"
    assert [event["error"]["code"] for event in gateway.of_type("failed")] == ["job_timeout"]


def test_an_upload_that_never_ends_is_stopped_and_reported(
    img2vid: Job, settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "UPLOAD_S", -58.5)  # of 60 s for the attempt, 1.5 are for all until the upload has ended
    gateway.on_put = lambda request: Reply(pause_s=FOREVER_S)
    error = failure(img2vid(delivery=gateway.delivery(limits={"timeout_s": 60})), settings)
    assert error.code == "upload_failed" and error.retryable
    assert [event["error"]["code"] for event in gateway.of_type("failed")] == ["upload_failed"]


def test_an_output_over_the_limit_is_the_jobs_fault(caption: Job, settings: Settings, gateway: Gateway) -> None:
    delivery = gateway.delivery(limits={"max_output_bytes": 1000})
    assert failure(caption(delivery=delivery), settings).code == "output_too_large"
    assert gateway.puts == []


def test_an_unexpected_error_is_a_worker_error_without_its_text(
    caption: Job, settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("inner s3cret")

    monkeypatch.setattr(job, "fetch_all", broken)
    error = failure(caption(delivery=gateway.delivery()), settings)
    assert (error.code, error.retryable) == ("worker_error", True)
    assert "s3cret" not in json.dumps(gateway.events)


def test_a_full_disk_is_the_workers_fault(
    caption: Job, settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "private_directory", full)
    assert failure(caption(delivery=gateway.delivery()), settings).code == "worker_disk_full"
    assert gateway.types[-1] == "failed"


@pytest.mark.parametrize("file", ["captions.srt", "page.html"])
def test_nothing_is_left_behind(caption: Job, settings: Settings, files: FileServer, file: str) -> None:
    Attempt(caption(url_srt=files.url(f"/{file}")), settings).start().join()
    assert list(settings.work_dir.glob("attempt-*")) == []
