"""Assets: the params that name files by URL, and how they are found at any depth of a schema.

A schema is walked once, when its operation is imported. An asset that the walk cannot reach is an error then, because
the worker would never fetch its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from marshmallow import Schema, ValidationError, fields, validate

from ffmpeg_ops import share_links

MAX_URL = 4096
MAX_ASSETS = 500  # a film of 200 scenes has a picture and a voice for each
ASSET_KINDS = ("video", "image", "audio", "subtitles", "font", "media")  # media: video or audio
PREFIX = "url_"


def _can_be_called(url: str) -> None:
    """Raise ValidationError for an impossible port and for control characters, which PostgreSQL cannot store."""
    try:
        _ = urlsplit(url).port
        if re.search(r"[\x00-\x20\x7f]", url):
            raise ValueError("control character")
    except ValueError as error:
        raise ValidationError("Must be an http or https URL.") from error


class WebUrl(fields.Url):
    """An http or https URL, of at most MAX_URL characters. Blanks around it are cut, and those inside encoded."""

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> Any:
        if isinstance(value, str):
            value = value.strip().replace(" ", "%20")
        return super().deserialize(value, attr, data, **kwargs)

    def __init__(self, **kwargs: Any) -> None:
        # no top-level domain needed: a gateway on a laptop or in a compose file is http://gateway:8000
        super().__init__(
            require_tld=False,
            schemes={"http", "https"},
            validate=[validate.Length(max=MAX_URL), _can_be_called],
            error_messages={"invalid": "Must be an http or https URL."},
            **kwargs,
        )


class Asset(WebUrl):
    """A param that names a file by URL. `kind` is one of ASSET_KINDS; the worker fetches the file before `run`.

    Share links of services that have direct ones become those.
    """

    def __init__(self, kind: str, **kwargs: Any) -> None:
        if kind not in ASSET_KINDS:
            raise ValueError(f"unknown kind of asset: {kind}")
        self.kind = kind
        super().__init__(**kwargs)

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> Any:
        url = super().deserialize(value, attr, data, **kwargs)
        return share_links.direct(url) if isinstance(url, str) else url


@dataclass(frozen=True)
class NamedAsset:
    """One asset that the params of a job name."""

    #: Where in the params: `url_video`, `scenes[2].url_image`.
    path: str
    #: One of ASSET_KINDS.
    kind: str
    #: Where the file is.
    url: str


def kinds(schema: Schema) -> dict[str, str]:
    """Every asset of `schema`: path, with `[]` for the items of a list, → kind.

    Raises TypeError for an asset that `named` would not find, and for another field whose name begins with PREFIX.
    """
    return dict(_of_schema(schema, "", ()))


def named(schema: Schema, params: Mapping[str, Any]) -> list[NamedAsset]:
    """The assets that `params`, loaded by `schema`, name, in the order of the schema.

    Raises ValidationError when there are more than MAX_ASSETS.
    """
    found = list(_in_schema(schema, params, ""))
    if len(found) > MAX_ASSETS:
        where = re.split(r"[.\[]", found[MAX_ASSETS].path)[0]
        raise ValidationError({where: [f"At most {MAX_ASSETS} files may be named in all, {len(found)} are."]})
    return found


def _of_schema(schema: Schema, path: str, above: tuple[type[Schema], ...]) -> Iterator[tuple[str, str]]:
    if type(schema) in above:
        raise TypeError(f"{path}: a schema that contains itself cannot be walked for assets")
    for name, field in schema.fields.items():
        yield from _of_field(field, _join(path, field.data_key or name), (*above, type(schema)))


def _of_field(field: fields.Field[Any], path: str, above: tuple[type[Schema], ...]) -> Iterator[tuple[str, str]]:
    name = path.removesuffix("[]").rpartition(".")[2].removesuffix("[]")
    if isinstance(field, Asset):
        if not name.startswith(PREFIX):
            raise TypeError(f"{path}: the name of an asset must begin with {PREFIX}")
        yield path, field.kind
    elif type(field) is fields.Nested:
        yield from _of_schema(field.schema, f"{path}[]" if field.many else path, above)
    elif type(field) is fields.List:
        yield from _of_field(field.inner, f"{path}[]", above)
    elif _holds_assets(field, set()):
        raise TypeError(f"{path}: an asset in a {type(field).__name__} is never fetched; use Nested and List")
    elif name.startswith(PREFIX):
        raise TypeError(f"{path}: a param whose name begins with {PREFIX} must be an Asset")


def _holds_assets(part: object, seen: set[object]) -> bool:
    """Whether an Asset is anywhere in `part`: a field, a schema, or a collection of fields."""
    if isinstance(part, Asset):
        return True
    if isinstance(part, fields.Nested):
        part = part.schema
    if isinstance(part, Schema):
        return _unseen(type(part), seen) and _holds_assets(part.fields, seen)
    if isinstance(part, fields.Field):
        inner = {name: value for name, value in vars(part).items() if name not in {"parent", "root"}}
        return _unseen(id(part), seen) and _holds_assets(inner, seen)
    if isinstance(part, Mapping):
        return any(_holds_assets(value, seen) for value in part.values())
    return isinstance(part, list | tuple) and any(_holds_assets(value, seen) for value in part)


def _unseen(key: object, seen: set[object]) -> bool:
    fresh = key not in seen
    seen.add(key)
    return fresh


def _in_schema(schema: Schema, values: Mapping[str, Any], path: str) -> Iterator[NamedAsset]:
    for name, field in schema.fields.items():
        yield from _in_field(field, values.get(field.attribute or name), _join(path, field.data_key or name))


def _in_field(field: fields.Field[Any], value: Any, path: str) -> Iterator[NamedAsset]:
    if value is None:
        return
    if isinstance(field, Asset):
        yield NamedAsset(path, field.kind, value)
    elif isinstance(field, fields.List):
        for i, item in enumerate(value):
            yield from _in_field(field.inner, item, f"{path}[{i}]")
    elif isinstance(field, fields.Nested) and field.many:
        for i, item in enumerate(value):
            yield from _in_schema(field.schema, item, f"{path}[{i}]")
    elif isinstance(field, fields.Nested):
        yield from _in_schema(field.schema, value, path)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
