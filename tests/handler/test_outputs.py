"""`handler.outputs`: what an operation made must be what it declared, and is stored whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ffmpeg_ops.operation import OPERATIONS
from handler import upload
from handler.settings import Settings
from tests.collage import OPERATION
from tests.handler.support import Gateway, Job
from tests.servers import FileServer, Reply, Request

OUTPUTS = ("sheet", "poster", "report")
MIME = {"sheet": "image/png", "poster": "image/jpeg", "report": "application/json"}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    OPERATIONS["caption"]  # so that the table is there
    monkeypatch.setitem(OPERATIONS._table, "collage", OPERATION)  # type: ignore[attr-defined]


@pytest.fixture
def collage(files: FileServer, gateway: Gateway, settings: Settings) -> Job:
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(picture, "PNG")
    files.routes["/picture"] = Reply(body=picture.getvalue())
    return Job("collage", {"scenes": [{"url_image": files.url("/picture")}] * 2}, gateway, settings)


@pytest.fixture
def delivery(gateway: Gateway) -> dict[str, Any]:
    """A delivery with an upload for each output."""
    for name in OUTPUTS:
        gateway.server.routes[f"/put/{name}"] = gateway._put
    return gateway.delivery(
        uploads={name: {"url": gateway.server.url(f"/put/{name}"), "max_bytes": 1_000_000} for name in OUTPUTS}
    )


def puts(gateway: Gateway) -> dict[str, Request]:
    return {request.path.rpartition("/")[2]: request for request in gateway.puts}


def test_every_output_is_put_with_its_type(collage: Job, delivery: dict[str, Any], gateway: Gateway) -> None:
    result = collage.result(delivery=delivery)
    sent = puts(gateway)
    assert {name: request.headers["Content-Type"] for name, request in sent.items()} == MIME
    assert {name: {"size_bytes": len(request.body)} for name, request in sent.items()} == result["outputs"]
    assert result["result"]["files"] == 1
    assert gateway.events[-1]["result"] == result


def test_without_uploads_every_output_stays_here_under_its_own_name(collage: Job) -> None:
    outputs = collage.result(delivery=None)["outputs"]
    for name, end in (("sheet", "sheet.png"), ("poster", "poster.jpg"), ("report", "report.json")):
        path = Path(outputs[name]["path"])
        assert path.name.startswith("collage-attempt-") and path.name.endswith(f"-{end}")
        assert path.parent == collage.settings.output_dir
        assert path.stat().st_size == outputs[name]["size_bytes"]


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("missing", "output_missing", "did not make the output poster"),
        ("empty", "output_missing", "empty output poster"),
        ("link", "output_missing", "empty output poster"),
        ("wrong_type", "output_invalid", "poster should be jpeg; the worker made a PNG image"),
        ("undeclared_output", "worker_error", "failed unexpectedly"),
        ("undeclared_figure", "worker_error", "not declared: bananas"),
        ("large_result", "worker_error", "too large: 640"),
        ("deep_result", "worker_error", "nested too deep"),
        ("no_object", "worker_error", "not an object"),
    ],
)
def test_what_an_operation_gets_wrong_is_a_failure_and_nothing_is_put(
    collage: Job, delivery: dict[str, Any], gateway: Gateway, fault: str, code: str, says: str
) -> None:
    error = collage.error(fault=fault, delivery=delivery)
    assert (error.code, error.retryable) == (code, True)
    assert says in error.message
    assert gateway.puts == []
    assert gateway.of_type("failed")[0]["error"] == error.to_wire()


def test_the_limit_applies_to_all_outputs_together(collage: Job, delivery: dict[str, Any], gateway: Gateway) -> None:
    sizes = [output["size_bytes"] for output in collage.result(delivery=None)["outputs"].values()]
    delivery["limits"]["max_output_bytes"] = sum(sizes) - 1
    assert max(sizes) < sum(sizes) - 1
    error = collage.error(delivery=delivery)
    assert (error.code, error.retryable) == ("output_too_large", False)
    assert gateway.puts == []
    delivery["limits"]["max_output_bytes"] = sum(sizes)
    assert set(collage.result(delivery=delivery)["outputs"]) == set(OUTPUTS)


def test_one_upload_of_three_that_fails_is_the_attempt_s_failure(
    collage: Job, delivery: dict[str, Any], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PAUSES_S", ())
    gateway.on_put = lambda request: Reply(503 if request.path == "/put/poster" else 200)
    error = collage.error(delivery=delivery)
    assert (error.code, error.retryable) == ("upload_failed", True)
    assert list(puts(gateway)) == ["sheet", "poster"], "the one before is the gateway's to remove, the next is not sent"


@pytest.mark.parametrize("uploads", [("sheet", "poster"), (*OUTPUTS, "film")])
def test_another_set_of_uploads_means_an_outdated_worker(
    collage: Job, delivery: dict[str, Any], gateway: Gateway, files: FileServer, uploads: tuple[str]
) -> None:
    delivery["uploads"] = {name: {"url": gateway.server.url("/put/x"), "max_bytes": 1} for name in uploads}
    assert collage.error(delivery=delivery).code == "worker_outdated"
    assert files.requests == gateway.puts == []


def test_too_many_assets_are_refused_before_any_is_fetched(collage: Job, files: FileServer) -> None:
    error = collage.error(url_texts=[files.url("/x")] * 499, delivery=None)
    assert error.message == "url_texts: At most 500 files may be named in all, 501 are."
    assert (error.code, files.requests) == ("invalid_params", [])


def test_an_asset_deep_in_the_params_is_named_by_its_path(collage: Job, files: FileServer) -> None:
    scenes = [{"url_image": files.url("/picture")}, {"url_image": files.url("/gone")}]
    assert (
        collage.error(scenes=scenes, delivery=None).message
        == "scenes[1].url_image: the server returned HTTP status 404."
    )
