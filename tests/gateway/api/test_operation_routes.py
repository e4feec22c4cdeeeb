"""`POST /video/<operation>`: accepted and refused requests, and what of them is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, fields

from ffmpeg_ops.operation import OPERATIONS
from tests.gateway.api.conftest import CAPTION, VIDEO, Worker, assert_problem
from tests.gateway.conftest import Gateway, Wire

IMAGE = {"url_image": "https://example.com/photo.jpg"}
SOUND = {"url_video": "https://example.com/v.mp4", "url_audio": "https://example.com/a.mp3"}
BODIES = {"caption": CAPTION, "img2vid": IMAGE, "adicionaAudio": SOUND}
RESERVED = ("operation", "delivery", "webhook_url", "output")


def refused_field(api: FlaskClient, operation: str, body: Any, field: str) -> list[str]:
    """Assert that the body is refused because of `field` alone; returns the reasons."""
    document = assert_problem(api.post(f"/video/{operation}", json=body), 422, "validation_failed")
    assert list(document["errors"]) == [field]
    assert field in document["detail"]
    return document["errors"][field]  # type: ignore[no-any-return]


def raw(api: FlaskClient, data: bytes | str, content_type: str = "application/json") -> Any:
    return api.post("/video/caption", data=data, content_type=content_type)


def count(services: Gateway, table: str) -> int:
    with services.store._engine.connect() as connection:
        return int(connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0)


def test_the_agreed_routes_have_the_agreed_fields() -> None:
    required = {
        name: {f.data_key or n for n, f in operation.params().fields.items() if f.required}
        for name, operation in OPERATIONS.items()
    }
    for name, body in BODIES.items():
        assert required[name] <= set(body)
        assert set(body) <= set(OPERATIONS[name].params().fields)
    shot = OPERATIONS["img2vid"].params().fields
    assert (shot["duration"].load_default, shot["frame_rate"].load_default) == (5, 24)


@pytest.mark.parametrize("operation", sorted(BODIES))
def test_a_job_is_accepted_with_the_agreed_response(api: FlaskClient, operation: str) -> None:
    response = api.post(f"/video/{operation}", json=BODIES[operation])
    assert response.status_code == 202
    job = response.get_json()
    assert set(job) == {"jobId", "operation", "status", "progress", "statusUrl", "createdAt"}
    assert (job["operation"], job["status"], job["progress"]) == (operation, "queued", 0)
    assert job["createdAt"] == "2023-11-14T22:13:20.000Z"
    assert job["jobId"].startswith("job_") and len(job["jobId"]) == 30
    assert response.headers["Location"] == f"/jobs/{job['jobId']}"
    assert job["statusUrl"] == f"http://127.0.0.1:8000/jobs/{job['jobId']}"
    assert int(response.headers["Retry-After"]) >= 1
    assert "Preference-Applied" not in response.headers


ACCEPTED = [
    ("caption", {**CAPTION, "url_video": url})
    for url in ("http://minio:9000/x", "http://127.0.0.1:8000/files/a?signature=x.y", "https://exämple.com/ü.mp4?a=b#c")
]
ACCEPTED += [
    ("img2vid", {**IMAGE, "duration": duration, "frame_rate": rate})
    for duration, rate in ((60, 60), (0.04, 1), (5, 23.976))
]


@pytest.mark.parametrize(("operation", "body"), ACCEPTED)
def test_local_hosts_and_limits_are_accepted(api: FlaskClient, services: Gateway, operation: str, body: Any) -> None:
    response = api.post(f"/video/{operation}", json=body)
    assert response.status_code == 202
    assert json.loads(services.store.params(response.get_json()["jobId"])) == body, "without defaults"


def test_a_job_has_one_shape_in_post_get_and_list(api: FlaskClient, worker: Worker) -> None:
    """While it waits, runs, and after it has ended."""
    for step in (lambda: None, lambda: worker.report("started"), worker.finish):
        step()
        posted = api.get(f"/jobs/{worker.job_id}").get_json()
        listed = api.get("/jobs").get_json()["jobs"][0]
        assert posted == listed


def test_a_finished_job_has_url_and_stats(services: Gateway, api: FlaskClient, worker: Worker) -> None:
    services.clock.advance(2000)
    worker.report("started")
    services.clock.advance(3000)
    worker.finish()
    job = api.get(f"/jobs/{worker.job_id}").get_json()
    assert (job["status"], job["progress"]) == ("completed", 1.0)
    assert job["startedAt"] == "2023-11-14T22:13:22.000Z"
    assert job["finishedAt"] == "2023-11-14T22:13:25.000Z"
    assert job["stats"] == {
        "duration_s": 2.0,
        "size_bytes": len(VIDEO),
        "encoder": "libx264",
        "provider": "fake",
        "queue_s": 2.0,
        "total_s": 5.0,
        "tries": 1,
        "cost_usd": None,
    }
    assert "error" not in job


@pytest.mark.parametrize("path", ["/video/unknown", "/video/Caption", "/video/adicionaaudio", "/video/caption%00"])
def test_an_unknown_operation_is_not_found(api: FlaskClient, path: str) -> None:
    assert_problem(api.post(path, json=CAPTION), 404, "not_found")


@pytest.mark.parametrize("operation", sorted(BODIES))
def test_reserved_and_unknown_names_are_refused(api: FlaskClient, operation: str) -> None:
    assert refused_field(api, operation, {**BODIES[operation], "x": 3}, "x")[0].startswith("Unknown field. Known are: ")
    document = assert_problem(api.post(f"/video/{operation}?wiat=5", json=BODIES[operation]), 422, "validation_failed")
    assert list(document["errors"]) == ["wiat"]
    for name in RESERVED:
        refused_field(api, operation, {**BODIES[operation], name: "x"}, name)


@pytest.mark.parametrize(
    ("operation", "guess", "meant"),
    [
        ("img2vid", "image_url", "url_image"),
        ("img2vid", "src", "url_image"),
        ("img2vid", "url", "url_image"),
        ("img2vid", "length", "duration"),
        ("img2vid", "frameRate", "frame_rate"),
        ("img2vid", "durration", "duration"),
        ("img2vid", "max_bytes", "encoding.max_bytes"),
        ("img2vid", "id", "reference"),
        ("caption", "text", "subtitles"),
        ("caption", "videoUrl", "url_video"),
        ("caption", "font-size", "style.size"),
        ("adicionaAudio", "audio_url", "url_audio"),
        ("adicionaAudio", "callback", "webhook_url"),
    ],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(
    api: FlaskClient, operation: str, guess: str, meant: str
) -> None:
    reasons = refused_field(api, operation, {**BODIES[operation], guess: 1}, guess)
    assert reasons == [f"Unknown field. Did you mean `{meant}`?"]


def test_the_field_that_was_meant_is_named_at_any_depth_and_in_the_query(api: FlaskClient) -> None:
    words = [{"word": "a", "start": 0, "end": 1}, {"text": "b", "begin": 1, "ends": 2}]
    body = {"url_video": CAPTION["url_video"], "words": words, "style": {"fontColor": "#FFFFFF"}}
    errors = assert_problem(api.post("/video/caption", json=body), 422, "validation_failed")["errors"]
    assert errors["words[1].ends"] == ["Unknown field. Did you mean `end`?"]
    assert errors["words[1].begin"] == ["Unknown field. Known are: word, start, end."]
    assert errors["words[1].word"] == ["Missing data for required field. The word as it is shown."]
    assert errors["style.fontColor"] == ["Unknown field. Did you mean `color`?"]
    errors = assert_problem(api.post("/video/caption?wiat=5", json=CAPTION), 422, "validation_failed")["errors"]
    assert errors == {"wiat": ["Unknown field. Did you mean `wait`?"]}


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/video/image2video", "img2vid"),
        ("/video/Caption/", "caption"),
        ("/video/captoin", "caption"),
        ("/video/add-audio", "adicionaAudio"),
    ],
)
def test_an_unknown_operation_is_refused_with_the_one_that_was_meant(api: FlaskClient, path: str, meant: str) -> None:
    detail = assert_problem(api.post(path, json=CAPTION), 404, "not_found")["detail"]
    assert f"Did you mean `{meant}`?" in detail


def test_an_operation_that_is_like_none_is_refused_with_all_that_there_are(api: FlaskClient) -> None:
    detail = assert_problem(api.post("/video/xyz", json=CAPTION), 404, "not_found")["detail"]
    assert detail == f"There is no such operation. Known are: {', '.join(OPERATIONS)}."
    for path in ("/xyz", "/jobs/xyz", "/video", "/files/video/xyz"):
        assert "operation" not in api.get(path).get_json().get("detail", "")


@pytest.mark.parametrize(("operation", "name"), [(o, name) for o, body in BODIES.items() for name in body])
def test_a_missing_url_is_named(api: FlaskClient, operation: str, name: str) -> None:
    body = {key: value for key, value in BODIES[operation].items() if key != name}
    refused_field(api, operation, body, name)


def test_all_mistakes_are_reported_together(api: FlaskClient) -> None:
    body = {"url_image": "x", "duration": 0, "frame_rate": "fast", "zoom": 2}
    document = assert_problem(api.post("/video/img2vid", json=body), 422, "validation_failed")
    assert set(document["errors"]) == set(body)
    assert all(isinstance(reason, str) for reasons in document["errors"].values() for reason in reasons)


INVALID_URLS: list[Any] = [
    *["example.com/v.mp4", "//example.com/v.mp4", "ftp://example.com/v.mp4", "file:///etc/passwd", "https://", ""],
    *["javascript:alert(1)", "data:video/mp4;base64,AAAA", "https:///v.mp4", "https://exa mple.com/v.mp4"],
    *[" ", "https://example.com/v.mp4\r\nX: y", "https://example.com/\0.mp4"],
    *["https://example.com/\x7f.mp4", "concat:https://example.com/a|b"],
    *[None, 7, True, ["https://example.com/v.mp4"], {"url": "https://example.com/v.mp4"}],
]


def test_an_invalid_url_is_refused(api: FlaskClient) -> None:
    for url in INVALID_URLS:
        refused_field(api, "caption", {**CAPTION, "url_video": url}, "url_video")


NO_NUMBERS = ["-1", "1e9", "1e400", "NaN", "Infinity", "-Infinity", "true", "false", "[5]", "{}", '"x"', '"5 s"']


@pytest.mark.parametrize(
    ("field", "values"),
    [("duration", ["0", "0.0", "-0.0", "60.001", *NO_NUMBERS]), ("frame_rate", ["0", "0.999", "60.5", *NO_NUMBERS])],
)
def test_an_invalid_number_is_refused(api: FlaskClient, field: str, values: list[str]) -> None:
    for value in values:
        body = f'{{"url_image": "https://example.com/a.jpg", "{field}": {value}}}'
        response = api.post("/video/img2vid", data=body, content_type="application/json")
        assert list(assert_problem(response, 422, "validation_failed")["errors"]) == [field], value


@pytest.mark.parametrize("body", ["[]", "null", "1", '"text"', "true", '[{"url_video": "https://example.com/v.mp4"}]'])
def test_json_other_than_an_object_is_refused(api: FlaskClient, body: str) -> None:
    assert list(assert_problem(raw(api, body), 422, "validation_failed")["errors"]) == ["_schema"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'url_video': 'x'}",
        b'{"url_video": "x",}',
        b"url_video=https://example.com",
        b'{"a": 1} {"b": 2}',
        b"\x00",
        b'{"url_video": "\xff\xfe"}',
        json.dumps(CAPTION).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(CAPTION).encode(),
        b'{"url_video": "https://example.com/\\ud800", "url_srt": "https://example.com/s"}',
        b'{"url_video": ' + b"9" * 5000 + b"}",
    ],
    ids=range(11),
)
def test_malformed_json_is_refused_as_such(api: FlaskClient, body: bytes) -> None:
    assert_problem(raw(api, body), 400, "malformed_body")


def test_an_empty_body_names_what_is_missing(api: FlaskClient) -> None:
    for body in (b"", b"{}"):
        assert set(assert_problem(raw(api, body), 422, "validation_failed")["errors"]) == {"url_video"}
    half = b'{"url_video": "https://example.com/v.mp4"}'
    assert set(assert_problem(raw(api, half), 422, "validation_failed")["errors"]) == {"url_srt"}


@pytest.mark.parametrize(
    ("types", "status"),
    [
        (["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"], 415),
        (["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"], 202),
    ],
)
def test_only_json_is_accepted(api: FlaskClient, types: list[str], status: int) -> None:
    for content_type in types:
        response = raw(api, json.dumps(CAPTION), content_type)
        assert response.status_code == status, content_type
        assert status == 202 or assert_problem(response, 415, "unsupported_media_type")


def test_a_body_over_one_megabyte_is_refused(api: FlaskClient) -> None:
    body = json.dumps({**CAPTION, "url_video": "https://example.com/" + "x" * 1_000_000})
    assert_problem(raw(api, body), 413, "payload_too_large")


def test_the_last_of_duplicate_keys_counts(api: FlaskClient, services: Gateway) -> None:
    body = '{"url_image": "https://example.com/a.jpg", "duration": 0, "duration": 3}'
    response = api.post("/video/img2vid", data=body, content_type="application/json")
    params = json.loads(services.store.params(response.get_json()["jobId"]))
    assert params == {"url_image": "https://example.com/a.jpg", "duration": 3}


def test_with_little_free_disk_only_repeated_requests_are_accepted(
    api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = repeated(api, "order-1")
    monkeypatch.setattr(services.storage, "free_percent", lambda: -0.1)
    for response in (repeated(api, "order-2"), api.post("/video/caption", json=CAPTION)):
        assert_problem(response, 507, "storage_low")
        assert "Retry-After" in response.headers
    assert repeated(api, "order-1").get_json() == first.get_json()
    assert (count(services, "idempotency"), count(services, "jobs")) == (1, 1)


def test_with_a_broken_database_no_job_is_accepted(api: FlaskClient, services: Gateway) -> None:
    with services.store._engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE jobs RENAME TO jobs_gone"))
    response = api.post("/video/caption", json=CAPTION, headers={"Idempotency-Key": "again"})
    document = assert_problem(response, 503, "service_unavailable")
    assert "Retry-After" in response.headers
    assert "detail" not in document
    assert count(services, "idempotency") == 0
    with services.store._engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE jobs_gone RENAME TO jobs"))
    assert api.post("/video/caption", json=CAPTION, headers={"Idempotency-Key": "again"}).status_code == 202
    assert count(services, "jobs") == 1


# What is taken as it is meant


def fields_of(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], fields.Field[Any]]]:
    """Every field that is no asset's own, at any depth outside lists, with the path to it."""
    for name, field in schema.fields.items():
        yield (*path, name), field
        if isinstance(field, fields.Nested):
            yield from fields_of(field.schema, (*path, name))


# What an object must have beside the field that is not set.
BESIDE: dict[str, dict[str, Any]] = {
    "narration": {"url_audio": "https://example.com/a.mp3"},
    "music": {"url_audio": "https://example.com/a.mp3"},
    "captions": {"url_srt": "https://example.com/a.srt"},
}


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_every_optional_field_may_be_null_or_empty(api: FlaskClient, operation: str, empty: str | None) -> None:
    example = OPERATIONS[operation].examples[0]
    normal = api.post(f"/video/{operation}?validate=1", json=example).get_json()["params"]
    for path, field in fields_of(OPERATIONS[operation].params()):
        beside = BESIDE.get(path[0], {}) if len(path) > 1 else {}
        if not field.required and path[0] not in example and path[-1] not in beside:
            body: Any = empty
            for name in reversed(path):
                body = {name: body}
            if beside:
                body[path[0]] = {**beside, **body[path[0]]}
            response = api.post(f"/video/{operation}?validate=1", json={**example, **body})
            assert response.status_code == 200, (path, response.get_json())
            if len(path) == 1:
                assert response.get_json()["params"] == normal, path
    labels = {"webhook_url": empty, "reference": empty, "filename": empty}
    job = api.post(f"/video/{operation}", json={**example, **labels}).get_json()
    assert not {"webhook", "reference"} & set(job)


@pytest.mark.parametrize(
    ("operation", "field", "given", "taken"),
    [
        ("img2vid", "url_image", "\n https://example.com/my photo.jpg ", "https://example.com/my%20photo.jpg"),
        ("img2vid", "duration", " 2.5 ", 2.5),
        ("img2vid", "motion", " zoom_out\n", "zoom_out"),
        ("adicionaAudio", "loop", " true ", True),
        ("caption", "style", {"line_length": "30", "font": " Noto Sans "}, {"line_length": 30, "font": "Noto Sans"}),
        ("caption", "encoding", {"max_bytes": "5000000"}, {"max_bytes": 5000000}),
        (
            "caption",
            "url_video",
            "https://drive.google.com/file/d/1aBc/view?usp=sharing",
            "https://drive.usercontent.google.com/download?id=1aBc&export=download&confirm=t",
        ),
        (
            "caption",
            "url_video",
            "https://www.dropbox.com/s/k3y/a.mp4?dl=0",
            "https://www.dropbox.com/s/k3y/a.mp4?dl=1",
        ),
    ],
)
def test_what_workflows_send_is_taken_as_it_is_meant(
    api: FlaskClient, operation: str, field: str, given: Any, taken: Any
) -> None:
    params = api.post(f"/video/{operation}?validate=1", json={**BODIES[operation], field: given}).get_json()["params"]
    if isinstance(taken, dict):
        assert taken.items() <= params[field].items()
    else:
        assert params[field] == taken


def test_spaces_in_words_and_subtitles_are_kept(api: FlaskClient) -> None:
    words = [{"word": " Bom", "start": "0", "end": 1}, {"word": " dia ", "start": 1, "end": 2}]
    body = {"url_video": CAPTION["url_video"], "words": words}
    params = api.post("/video/caption?validate=1", json=body).get_json()["params"]
    assert [word["word"] for word in params["words"]] == [" Bom", " dia "]


def test_a_slash_at_the_end_changes_nothing(api: FlaskClient) -> None:
    job = api.post("/video/caption/", json=CAPTION)
    assert job.status_code == 202
    assert api.get(f"/jobs/{job.get_json()['jobId']}/").status_code == 202
    assert len(api.get("/jobs/").get_json()["jobs"]) == 1
    assert api.post("/files/", data=b"ID3").status_code == 201


# reference and filename


@pytest.mark.parametrize(
    ("given", "shown"),
    [("order 7", "order 7"), (" 7\n", "7"), (17, "17"), ("é" * 200, "é" * 200), ("job/1?x=ü'\"", "job/1?x=ü'\"")],
)
def test_a_reference_is_shown_in_the_job_and_in_lists(
    api: FlaskClient, services: Gateway, given: Any, shown: str
) -> None:
    job = api.post("/video/caption", json={**CAPTION, "reference": given}).get_json()
    assert job["reference"] == shown
    assert (
        [job] == api.get("/jobs").get_json()["jobs"] == api.get("/jobs", query_string={"reference": shown}).json["jobs"]
    )
    assert json.loads(services.store.params(job["jobId"])) == CAPTION, "it is no param"


@pytest.mark.parametrize("reference", ["x" * 201, "a\0b", "a\nb", 1.5, True, ["x"], {"id": 1}])
def test_an_invalid_reference_is_refused(api: FlaskClient, reference: Any) -> None:
    refused_field(api, "caption", {**CAPTION, "reference": reference}, "reference")


@pytest.mark.parametrize(
    "filename",
    ["x" * 121, "../film.mp4", "a/b", "a\\b", "/etc/passwd", "a\r\nX: y", "a\0", "film\u202e4pm.exe", 7, ["x"]],
)
def test_an_invalid_filename_is_refused(api: FlaskClient, filename: Any) -> None:
    refused_field(api, "caption", {**CAPTION, "filename": filename}, "filename")


@pytest.mark.parametrize("name", ["reference", "filename"])
def test_a_repeated_request_with_another_label_is_a_different_one(api: FlaskClient, name: str) -> None:
    repeated(api, "order-1", {**CAPTION, name: "a"})
    assert repeated(api, "order-1", {**CAPTION, name: "a"}).status_code == 202
    assert_problem(repeated(api, "order-1", {**CAPTION, name: "b"}), 422, "idempotency_mismatch")


# ?validate=true


def test_validation_returns_the_params_and_makes_nothing(
    api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.storage, "free_percent", lambda: -0.1)
    body = {
        "url_image": " https://example.com/a b.jpg",
        "duration": "3",
        "reference": "x",
        "webhook_url": "https://x.yz/",
    }
    response = api.post("/video/img2vid?validate=true&wait=60", json=body, headers={"Idempotency-Key": "order-1"})
    assert response.status_code == 200
    params = response.get_json()["params"]
    assert (params["url_image"], params["duration"], params["frame_rate"]) == (
        "https://example.com/a%20b.jpg",
        3.0,
        24.0,
    )
    assert not {"reference", "webhook_url"} & set(params)
    assert services.turn() == 0
    assert (count(services, "idempotency"), count(services, "jobs")) == (0, 0)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_validated_params_are_valid_and_stay_the_same(api: FlaskClient, operation: str) -> None:
    for example in OPERATIONS[operation].examples:
        params = api.post(f"/video/{operation}?validate=1", json=example).get_json()["params"]
        assert api.post(f"/video/{operation}?validate=1", json=params).get_json()["params"] == params
        assert set(example) <= set(params)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"url_video": 7}, "url_video"), ({"webhook_url": "http://10.0.0.1/"}, "webhook_url"), ({"zoom": 1}, "zoom")],
)
def test_validation_refuses_what_the_request_would_be_refused_for(
    api: FlaskClient, change: dict[str, Any], field: str
) -> None:
    response = api.post("/video/caption?validate=true", json={**CAPTION, **change})
    assert list(assert_problem(response, 422, "validation_failed")["errors"]) == [field]


def test_validation_also_checks_the_idempotency_key(api: FlaskClient) -> None:
    response = api.post("/video/caption?validate=true", json=CAPTION, headers={"Idempotency-Key": "x" * 256})
    assert_problem(response, 422, "validation_failed")


def test_validation_uses_no_quota(api: FlaskClient, app: Flask, wire: Wire) -> None:
    app.extensions["reelay"] = wire(max_jobs_per_key=1)
    assert api.post("/video/caption", json=CAPTION).status_code == 202
    assert_problem(api.post("/video/caption", json=CAPTION), 429, "too_many_jobs")
    assert api.post("/video/caption?validate=true", json=CAPTION).status_code == 200
    assert api.post("/video/caption?validate=false", json=CAPTION).status_code == 429


# Idempotency-Key


def repeated(api: FlaskClient, key: str, body: Any = CAPTION, operation: str = "caption") -> Any:
    return api.post(f"/video/{operation}", json=body, headers={"Idempotency-Key": key})


def test_another_key_gives_another_job(api: FlaskClient) -> None:
    assert repeated(api, "a").get_json()["jobId"] != repeated(api, "b").get_json()["jobId"]
    assert repeated(api, "a").get_json()["jobId"] != repeated(api, "A").get_json()["jobId"]


def test_a_request_with_the_same_key_gives_the_same_job(
    api: FlaskClient, services: Gateway, other_client: FlaskClient
) -> None:
    first = repeated(api, "order-1")
    for key, body in (("order-1", dict(reversed(CAPTION.items()))), ('"order-1"', CAPTION)):
        again = repeated(api, key, body).get_json()
        assert again == first.get_json() == api.get(first.headers["Location"]).get_json()
    other = {**CAPTION, "url_srt": "https://example.com/other.srt"}
    assert_problem(repeated(api, "order-1", other), 422, "idempotency_mismatch")
    assert count(services, "jobs") == 1
    assert repeated(other_client, "order-1").get_json()["jobId"] != first.get_json()["jobId"]
    assert repeated(api, "x" * 255).get_json() == repeated(api, '"' + "x" * 255 + '"').get_json()


@pytest.mark.parametrize("given_key", ["", " ", '""', '"', "x" * 256, '"' + "x" * 256 + '"'])
def test_a_key_that_is_empty_or_too_long_is_refused(api: FlaskClient, services: Gateway, given_key: str) -> None:
    document = assert_problem(repeated(api, given_key), 422, "validation_failed")
    assert list(document["errors"]) == ["Idempotency-Key"]
    assert count(services, "jobs") == 0


def test_a_refused_request_uses_up_no_key(api: FlaskClient) -> None:
    assert repeated(api, "order-1", {}).status_code == 422
    assert repeated(api, "order-1").status_code == 202


def test_a_repeated_request_returns_the_finished_job(api: FlaskClient, worker: Worker) -> None:
    first = repeated(api, "order-1").get_json()["jobId"]
    api.delete(f"/jobs/{first}")
    response = repeated(api, "order-1")
    assert (response.status_code, response.get_json()["status"]) == (200, "cancelled")
    assert "Retry-After" not in response.headers


# Random requests


UNSHARED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@UNSHARED
@given(name=st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=300))
def test_any_idempotency_key_gives_one_job_or_a_refusal(api: FlaskClient, name: str) -> None:
    first, again = repeated(api, name), repeated(api, name)
    assert first.status_code in {202, 422}
    if first.status_code == 202:
        assert again.get_json() == first.get_json()
