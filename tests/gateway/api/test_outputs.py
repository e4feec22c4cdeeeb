"""Jobs with many outputs through the API: what a worker is handed, what is checked, what clients get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ffmpeg_ops.operation import OPERATIONS
from gateway.api.job_document import JobSchema
from tests.collage import OPERATION
from tests.gateway.api.conftest import Worker, assert_problem, local
from tests.gateway.conftest import Gateway
from tests.gateway.upkeep.test_janitor import clean

FILES = {
    "sheet": ("png", "image/png", b"\x89PNG\r\n\x1a\n" + b"x" * 90),
    "poster": ("jpg", "image/jpeg", b"\xff\xd8\xff" + b"x" * 40),
    "report": ("json", "application/json", b'{"a": 1}'),
}
PARAMS = {"scenes": [{"url_image": "https://example.com/photo.jpg"}]}


@pytest.fixture(autouse=True)
def collage(monkeypatch: pytest.MonkeyPatch) -> None:
    OPERATIONS["caption"]  # so that the table is there
    monkeypatch.setitem(OPERATIONS._table, "collage", OPERATION)  # type: ignore[attr-defined]


@pytest.fixture
def worker(new_worker: Callable[..., Worker]) -> Worker:
    """It has claimed a collage job."""
    worker = new_worker("collage", PARAMS)
    assert worker.report("started").status_code == 200
    return worker


def put(worker: Worker, *names: str) -> None:
    for name in names:
        assert worker.put(FILES[name][2], name).status_code == 201


def complete(worker: Worker, sizes: dict[str, int] | None = None, **more: Any) -> TestResponse:
    sizes = sizes or {name: len(content) for name, (_, _, content) in FILES.items()}
    outputs = {name: {"size_bytes": size} for name, size in sizes.items()}
    return worker.report("completed", result={"outputs": outputs, "stats": {"width": 32}, **more})


def job(api: FlaskClient, worker: Worker) -> dict[str, Any]:
    return api.get(f"/jobs/{worker.job_id}").get_json()  # type: ignore[no-any-return]


def test_a_worker_is_handed_an_upload_for_every_output(worker: Worker) -> None:
    assert set(worker.delivery["uploads"]) == set(FILES)
    for name, target in worker.delivery["uploads"].items():
        key = local(target["url"]).removeprefix("/files/").partition("?")[0]
        assert key == f"outputs/{worker.job_id}/{worker.delivery['attempt_id']}/{name}.{FILES[name][0]}"
    assert worker.delivery["limits"]["max_job_assets_bytes"] == 1_000_000_000


def test_the_finished_files_are_in_the_document_and_served_with_their_types(api: FlaskClient, worker: Worker) -> None:
    put(worker, *FILES)
    assert complete(worker, result={"found": [1, {"a": None}]}).status_code == 200
    document = job(api, worker)
    assert document["status"] == "completed"
    assert document["result"] == {"found": [1, {"a": None}]}
    assert "video_url" not in document
    assert list(document["outputs"]) == list(FILES)
    assert list(document) == [name for name in JobSchema().fields if name in document], "in the documented order"
    for name, (extension, mime, content) in FILES.items():
        output = document["outputs"][name]
        assert (output["content_type"], output["size_bytes"]) == (mime, len(content))
        response = worker.client.get(local(output["url"]), buffered=True)
        assert (response.headers["Content-Type"], response.data) == (mime, content)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        saved_as = f"inline; filename={worker.job_id}-{name}.{extension}"
        assert response.headers["Content-Disposition"] == saved_as


def test_the_client_names_the_downloads(api: FlaskClient, new_worker: Callable[..., Worker]) -> None:
    worker = new_worker("collage", {**PARAMS, "filename": " Ação.mp4 "})
    worker.report("started")
    put(worker, *FILES)
    complete(worker)
    outputs = job(api, worker)["outputs"]
    response = worker.client.get(local(outputs["poster"]["url"]), buffered=True)
    named = "inline; filename=Acao-poster.jpg; filename*=UTF-8''A%C3%A7%C3%A3o-poster.jpg"
    assert response.headers["Content-Disposition"] == named


@pytest.mark.parametrize(
    ("stored", "sizes", "code"),
    [
        (("sheet", "report"), {}, "output_missing"),
        (tuple(FILES), {"poster": 1}, "output_missing"),
        (tuple(FILES), {"poster": None}, "output_missing"),
        (tuple(FILES), {"film": 1}, "output_invalid"),
    ],
    ids=["not stored", "of another size", "not reported", "not declared"],
)
def test_a_result_whose_outputs_are_not_as_declared_does_not_count(
    api: FlaskClient, worker: Worker, stored: tuple[str, ...], sizes: dict[str, int | None], code: str
) -> None:
    put(worker, *stored)
    reported = {name: len(content) for name, (_, _, content) in FILES.items()} | sizes
    assert complete(worker, {name: size for name, size in reported.items() if size}).status_code == 200
    found = job(api, worker)
    assert (found["status"], found["attempts"][-1]["code"]) == ("queued", code)


@pytest.mark.parametrize("result", [["no object"], {"text": "x" * 64_000}, "text"])
def test_a_result_that_is_no_small_object_is_refused(api: FlaskClient, worker: Worker, result: object) -> None:
    put(worker, *FILES)
    assert_problem(complete(worker, result=result), 422, "validation_failed")
    assert job(api, worker)["status"] == "running"


def test_what_an_attempt_stored_that_failed_is_removed(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    put(worker, "sheet", "poster")
    error = {"code": "upload_failed", "message": "no", "retryable": True}
    assert worker.report("failed", error=error).status_code == 200
    assert len(list(services.storage.keys())) == 2
    services.clock.advance(10_000)
    services.turn()  # the next attempt
    clean(services)
    assert list(services.storage.keys()) == []


def test_an_undeclared_output_cannot_be_put(worker: Worker) -> None:
    url = worker.upload_of("sheet")
    assert_problem(worker.client.put(url.replace("sheet.png", "film.mp4"), data=b"x"), 403, "signature_invalid")


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"scenes": []}, "scenes", "Shorter than minimum length 1."),
        ({"url_texts": ["https://example.com/a.srt"] * 500}, "url_texts", "At most 500 files may be named in all"),
        ({"scenes": [*PARAMS["scenes"], {"url_image": "x"}]}, "scenes[1].url_image", "Must be an http or https URL."),
        ({"scenes": [{"url_audio": "https://example.com"}]}, "scenes[0].url_image", "Missing data"),
    ],
    ids=["an empty list", "501 files", "no URL", "missing"],
)
def test_what_a_request_gets_wrong_is_named_by_its_path(
    api: FlaskClient, services: Gateway, change: dict[str, Any], path: str, says: str
) -> None:
    problem = assert_problem(api.post("/video/collage", json={**PARAMS, **change}), 422, "validation_failed")
    assert says in problem["errors"][path][0]
    assert api.get("/jobs").get_json()["jobs"] == []
