"""The parameters of paths, and the paths of files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wire.media_types import MP4

# Operations with this tag are called by workers.
WORKERS = "workers"
# Operations with this one make jobs.
MAKES_JOBS = "video"
ULID = "[0-9A-HJKMNP-TV-Z]{26}"
# Pattern and example by name of the parameter.
_PARAMETERS = {
    "job_id": (f"^job_{ULID}$", "job_01HF7YAT00M3XH5S9QHW1K2YB4"),
    "attempt_id": (f"^att_{ULID}$", "att_01HF7YAT00M3XH5S9QHW1K2YB5"),
    "key_id": (f"^key_{ULID}$", "key_01HF7YAT00M3XH5S9QHW1K2YB6"),
    "upload_id": (f"^{ULID}$", "01HF7YAT00M3XH5S9QHW1K2YB7"),
    "file_name": (r"^[a-z][a-z0-9_]{0,63}\.[a-z0-9]+$", f"video.{MP4.extension}"),
    "code": ("^[a-z_]+$", "not_found"),
}
# The route of files takes any key; these are all that there are. A parameter of a path cannot hold slashes.
_ANY_FILE = "/files/{key}"
_OUTPUT = "/files/outputs", ("job_id", "attempt_id", "file_name")
_UPLOAD = "/files/uploads", ("key_id", "upload_id")


def parameter(name: str) -> dict[str, Any]:
    """A parameter of a path."""
    pattern, example = _PARAMETERS[name]
    schema = {"type": "string", "pattern": pattern}
    return {"in": "path", "name": name, "required": True, "schema": schema, "example": example}


def exact(paths: Mapping[str, Any]) -> dict[str, Any]:
    """`paths` with both forms of the keys of files in place of any key."""
    found: dict[str, Any] = {}
    for path, item in paths.items():
        if path == _ANY_FILE:
            found |= {_path(*_OUTPUT): {**item, "parameters": _parameters(*_OUTPUT)}}
            found |= {_path(*_UPLOAD): {"get": _of_upload(item["get"]), "parameters": _parameters(*_UPLOAD)}}
        else:
            found[path] = item
    return found


def _of_upload(download: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **download,
        "operationId": "fetchUpload",
        "summary": "Fetch an uploaded file, as an asset, by its signed URL",
        "tags": [WORKERS],
    }


def _path(folder: str, names: tuple[str, ...]) -> str:
    return folder + "".join(f"/{{{name}}}" for name in names)


def _parameters(_: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [parameter(name) for name in names]
