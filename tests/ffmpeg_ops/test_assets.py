"""`ffmpeg_ops.assets`: assets are found wherever a schema may hold them, and refused where they are not."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema, ValidationError, fields

from ffmpeg_ops.assets import MAX_ASSETS, Asset, NamedAsset, WebUrl, kinds, named

URL = "https://example.com/"


class Sound(Schema):
    url_audio = Asset("audio", required=True)


class Scene(Schema):
    url_image = Asset("image")
    narration = fields.Nested(Sound)
    overlays = fields.List(fields.Nested(Schema.from_dict({"url_video": Asset("video")})))


class Film(Schema):
    scenes = fields.Nested(Scene, many=True)
    music = fields.Nested(Sound)
    url_stills = fields.List(Asset("image"))
    grid = fields.List(fields.List(fields.Nested(Sound)))
    title = fields.String()
    styles = fields.Dict(values=fields.Integer())


def test_every_asset_of_a_schema_has_a_path() -> None:
    assert kinds(Film()) == {
        "scenes[].url_image": "image",
        "scenes[].narration.url_audio": "audio",
        "scenes[].overlays[].url_video": "video",
        "music.url_audio": "audio",
        "url_stills[]": "image",
        "grid[][].url_audio": "audio",
    }


def test_every_asset_that_params_name_is_found_at_its_path() -> None:
    params = Film().load(
        {
            "scenes": [{}, {"url_image": URL + "1", "overlays": [{}, {"url_video": URL + "2"}]}],
            "url_stills": [URL + "3", URL + "1"],
            "grid": [[], [{"url_audio": URL + "4"}]],
        }
    )
    assert named(Film(), params) == [
        NamedAsset("scenes[1].url_image", "image", URL + "1"),
        NamedAsset("scenes[1].overlays[1].url_video", "video", URL + "2"),
        NamedAsset("url_stills[0]", "image", URL + "3"),
        NamedAsset("url_stills[1]", "image", URL + "1"),
        NamedAsset("grid[1][0].url_audio", "audio", URL + "4"),
    ]


def test_an_optional_asset_that_is_missing_is_not_named() -> None:
    class Optional(Schema):
        url_image = Asset("image", load_default=None, allow_none=True)
        music = fields.Nested(Sound, load_default=None, allow_none=True)

    assert named(Optional(), Optional().load({})) == []


def test_a_path_has_the_name_that_clients_write() -> None:
    class Renamed(Schema):
        picture = Asset("image", data_key="url_image", attribute="inner")

    assert named(Renamed(), Renamed().load({"url_image": URL})) == [NamedAsset("url_image", "image", URL)]


class Custom(fields.Field[Any]):
    """A container that marshmallow does not know."""

    def __init__(self, inside: fields.Field[Any]) -> None:
        self.inside = [inside]
        super().__init__()


class Kept(fields.List[Any]):
    """A list that may load its items in its own way."""


UNREACHABLE: dict[str, fields.Field[Any]] = {
    "Dict": fields.Dict(values=Asset("image")),
    "Dict of schemas": fields.Dict(values=fields.Nested(Sound)),
    "Tuple": fields.Tuple((fields.Integer(), Asset("image"))),
    "Pluck": fields.Pluck(Sound, "url_audio"),
    "a container": Custom(Asset("image")),
    "a container of schemas": Custom(fields.Nested(Film)),
    "a subclass": Kept(Asset("image")),
}


@pytest.mark.parametrize("field", UNREACHABLE.values(), ids=list(UNREACHABLE))
@pytest.mark.parametrize("nested", [False, True])
def test_an_asset_that_is_not_reached_is_refused(field: fields.Field[Any], nested: bool) -> None:
    schema = Schema.from_dict({"held": field})
    if nested:
        schema = Schema.from_dict({"outer": fields.List(fields.Nested(schema))})
    with pytest.raises(TypeError, match=r"held: an asset in a \w+ is never fetched"):
        kinds(schema())


@pytest.mark.parametrize(
    "field", [fields.Dict(values=fields.Integer()), fields.Tuple((fields.Integer(),)), Custom(fields.String())]
)
def test_containers_without_assets_are_fine(field: fields.Field[Any]) -> None:
    assert kinds(Schema.from_dict({"held": field})()) == {}


class Tree(Schema):
    url_image = Asset("image")
    below = fields.Nested(lambda: Tree())


def test_a_schema_that_contains_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="contains itself"):
        kinds(Tree())


def test_a_container_of_a_schema_that_contains_itself_is_walked_once() -> None:
    with pytest.raises(TypeError, match="held: an asset in a Dict"):
        kinds(Schema.from_dict({"held": fields.Dict(values=fields.Nested(Tree))})())


def test_an_asset_s_name_begins_as_all_do() -> None:
    with pytest.raises(TypeError, match="picture: the name of an asset must begin with url_"):
        kinds(Schema.from_dict({"picture": Asset("image")})())


@pytest.mark.parametrize("field", [fields.Url(), fields.String(), fields.List(fields.Url())])
def test_only_assets_have_names_that_begin_with_url(field: fields.Field[Any]) -> None:
    with pytest.raises(TypeError, match=r"url_image.*: a param whose name begins with url_ must be an Asset"):
        kinds(Schema.from_dict({"url_image": field})())


def test_the_number_of_files_is_limited() -> None:
    most = {"url_stills": [URL] * MAX_ASSETS}
    assert len(named(Film(), Film().load(most))) == MAX_ASSETS
    with pytest.raises(ValidationError) as caught:
        named(Film(), Film().load({**most, "grid": [[{"url_audio": URL}]]}))
    assert caught.value.normalized_messages() == {"grid": ["At most 500 files may be named in all, 501 are."]}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (" https://example.com/a.mp4\n", "https://example.com/a.mp4"),
        ("https://example.com/a b.mp4?x=1 2", "https://example.com/a%20b.mp4?x=1%202"),
        ("https://example.com/a%20b.mp4", "https://example.com/a%20b.mp4"),
    ],
)
def test_blanks_around_a_url_are_cut_and_those_inside_encoded(written: str, meant: str) -> None:
    assert WebUrl().deserialize(written) == meant


@pytest.mark.parametrize(
    "url", ["", " ", "https://exa\tmple.com/", "https:// example.com/", "https://example.com:1 2/", None]
)
def test_a_url_with_blanks_elsewhere_is_refused(url: str | None) -> None:
    with pytest.raises(ValidationError):
        WebUrl().deserialize(url)
