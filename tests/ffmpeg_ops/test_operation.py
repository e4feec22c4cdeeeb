"""What every operation must be. `tests/end_to_end/test_collage.py` adds a package and sees it become an operation."""

from __future__ import annotations

import gc
import importlib
import json
import re
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from marshmallow import Schema, ValidationError, fields

import ffmpeg_ops
from ffmpeg_ops.assets import ASSET_KINDS, Asset
from ffmpeg_ops.operation import OPERATIONS, VIDEO, Operation, Outputs, StopSignal, Weight, Work
from tests.conftest import ROOT
from tests.servers import PATIENCE_S
from wire.envelope import RESERVED_NAMES
from wire.errors import Cancelled, Superseded
from wire.media_types import MP4, PNG


def _id(value: object) -> str:
    return value.name if isinstance(value, Operation) else str(value)


each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
each_asset = pytest.mark.parametrize(
    ("operation", "name"), [(o, name) for o in OPERATIONS.values() for name in o.asset_kinds], ids=_id
)


def required(operation: Operation) -> dict[str, Any]:
    """The first example: only what is required, including one of several alternatives."""
    return dict(operation.examples[0])


# --- conformance -----------------------------------------------------------------------------------------------------


@each_operation
def test_name_and_docstring_are_well_formed(operation: Operation) -> None:
    assert OPERATIONS[operation.name] is operation
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", operation.name), "the name is one part of a path"
    assert re.fullmatch(r"[A-Z].{10,100}\.", operation.summary)
    assert operation.doc.splitlines()[1:2] in ([], [""]), "an empty line follows the summary"


@each_operation
def test_every_example_loads_and_the_first_has_only_what_is_required(operation: Operation) -> None:
    assert operation.examples
    for example in operation.examples:
        json.dumps(example)
        operation.params().load(dict(example))
    for name in operation.examples[0]:
        with pytest.raises(ValidationError):
            operation.params().load({k: v for k, v in operation.examples[0].items() if k != name})


@each_operation
def test_params_are_described_and_refused_by_name(operation: Operation) -> None:
    params = operation.params()
    assert not RESERVED_NAMES & set(params.fields)
    for field in params.fields.values():
        assert re.fullmatch(r"[A-Z].*\.", field.metadata["description"])
    missing = {name for name, field in params.fields.items() if field.required}
    for given, named in (({**required(operation), "colour": "red"}, {"colour"}), ({}, missing)):
        with pytest.raises(ValidationError) as caught:
            params.load(given)
        assert set(caught.value.normalized_messages()) == named


# What an object of compose must have beside one of its objects: exactly one source.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("scenes[]", "narration"): {"color": "#000000"},
    ("scenes[]", "overlays[]"): {"color": "#000000"},
    ("overlays[]", "style"): {"text": "x"},
    ("captions", "style"): {"subtitles": "x"},
}


@each_asset
def test_an_asset_is_an_http_url(operation: Operation, name: str) -> None:
    """Also of a host without a top-level domain."""
    *above, last = name.split(".")
    assert last.startswith("url_") and operation.asset_kinds[name] in ASSET_KINDS
    field = name.split(".")[0].removesuffix("[]")

    def given(url: object) -> dict[str, Any]:
        value: Any = url
        parts = ["", *above, last]
        for around, part in reversed(list(pairwise(parts))):
            value = {
                part.removesuffix("[]"): [value, value] if part.endswith("[]") else value,
                **BESIDE.get((around, part), {}),
            }
        assert isinstance(value, dict)
        return {**required(operation), **value}

    def loaded(url: object) -> Any:
        return [asset.url for asset in operation.named_assets(operation.params().load(given(url)))]

    for good in ("http://gateway:8000/files/x?signature=1", "https://example.com/ação.mp4", "http://127.0.0.1/x"):
        assert good in loaded(good)
    not_set = () if not above else ("", None)  # what is below another field is optional
    for bad in ("", "x", "ftp://example.com/x", "file:///etc/passwd", "//example.com/x", 5, None, ["http://a/b"]):
        if bad in not_set:
            continue
        with pytest.raises(ValidationError) as caught:
            operation.params().load(given(bad))
        assert list(caught.value.normalized_messages()) == [field]


@each_operation
def test_the_description_is_importable_without_what_the_work_needs(operation: Operation) -> None:
    code = (
        "import sys; sys.modules.update({n: None for n in ('cv2', 'numpy', 'PIL', 'pysubs2', 'subprocess')});"
        f"import importlib; print(importlib.import_module({operation.package!r}).OPERATION.summary)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == operation.summary
    assert callable(importlib.import_module(f"{operation.package}.run").run)


def test_every_package_beside_the_module_is_an_operation() -> None:
    packages = {path.parent.name for path in Path(ffmpeg_ops.__file__).parent.glob("*/__init__.py")} - {"engine"}
    assert packages == {operation.package.rpartition(".")[2] for operation in OPERATIONS.values()}


# --- the parts -------------------------------------------------------------------------------------------------------


def made(params: type[Schema] = Schema, outputs: Outputs = VIDEO, example: dict[str, Any] | None = None) -> Operation:
    """An operation that is only declared."""
    return Operation("x", "ffmpeg_ops.x", params, lambda loaded: outputs, Weight.GPU, (example or {},))


def with_field(name: str, field: fields.Field[Any]) -> type[Schema]:
    return Schema.from_dict({name: field})


INVALID: list[tuple[dict[str, Any], str]] = [
    *(({"params": with_field(name, fields.String())}, name) for name in sorted(RESERVED_NAMES)),
    ({"params": with_field("by_name", fields.Dict(values=Asset("image")))}, "by_name: an asset in a Dict is never"),
    *(
        ({"outputs": {name: MP4}}, "an output cannot be called")
        for name in ("", "Video", "1st", "a-b", "a.b", "../a", "a b", "é", "a" * 65)
    ),
    ({"outputs": {"clip": replace(MP4, extension="exe")}}, "output clip: .* is not in wire.media_types"),
    ({"example": {"unknown_param": 1}}, "unknown_param"),
]


@pytest.mark.parametrize(("declaration", "said"), INVALID)
def test_an_invalid_declaration_is_refused_when_the_operation_is_made(declaration: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=rf"^x: .*{said}"):
        made(**declaration)


def test_outputs_may_depend_on_the_params() -> None:
    params = Schema.from_dict({"times": fields.List(fields.Float(), load_default=[0])})
    several = Operation(
        "x", "x", params, lambda loaded: {f"frame_{i}": PNG for i, _ in enumerate(loaded["times"], 1)}, Weight.LIGHT, ()
    )
    assert list(several.declared({"times": [0, 1]})) == ["frame_1", "frame_2"]


def test_an_unknown_kind_of_asset_is_refused() -> None:
    with pytest.raises(ValueError, match="hologram"):
        Asset("hologram")


def test_the_first_reason_to_stop_stays() -> None:
    stop = StopSignal()
    stop.check()
    stop.set(Superseded())
    stop.set(Cancelled())
    with pytest.raises(Superseded):
        stop.check()


def test_a_stop_keeps_nothing_alive_that_the_work_held() -> None:
    """As the reason's own traceback would: the pixels, files and connections of every thread that checked."""

    class Pixels: ...

    stop, held = StopSignal(), []

    def work() -> None:
        pixels = Pixels()
        held.append(weakref.ref(pixels))
        stop.check()

    stop.set(Cancelled("by hand", detail="why"))
    gc.disable()
    try:
        for _ in range(2):
            with suppress(Cancelled):
                work()
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()
    with pytest.raises(Cancelled) as caught:
        stop.check()
    assert (caught.value.message, caught.value.detail) == ("by hand", "why")


def test_waiting_ends_with_the_reason_to_stop() -> None:
    stop, raised = StopSignal(), []

    def wait() -> None:
        try:
            stop.wait(600)
        except Cancelled as error:
            raised.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    stop.set(Cancelled())
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive() and raised
    StopSignal().wait(0)  # without a reason it just returns


def test_an_output_lies_in_the_private_directory_with_its_extension(tmp_path: Path) -> None:
    work = Work(tmp_path, outputs={"poster": PNG, "clip": MP4})
    assert [work.output(name).name for name in work.outputs] == ["output-poster.png", "output-clip.mp4"]
    assert work.output("clip").parent == tmp_path


def test_an_output_that_is_not_declared_has_no_place(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="has not declared the output 'poster'"):
        Work(tmp_path).output("poster")
