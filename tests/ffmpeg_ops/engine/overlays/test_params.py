"""`OverlayParams`: what is taken, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from common.forgiving import ForgivingSchema
from ffmpeg_ops.assets import kinds
from ffmpeg_ops.engine.overlays.params import MAX_OVERLAYS, MAX_TEXT, OverlayParams, overlays_param

IMAGE, VIDEO = {"url_image": "https://example.com/a.png"}, {"url_video": "https://example.com/a.mp4"}
TEXT = {"text": "x"}


class FilmParams(ForgivingSchema):
    overlays = overlays_param("film")


@pytest.mark.parametrize("given", [TEXT, IMAGE, VIDEO, {**VIDEO, "volume": 1}, {**TEXT, "style": {"preset": "pop"}}])
def test_one_source_is_enough(given: dict[str, Any]) -> None:
    loaded = OverlayParams().load(given)
    assert (loaded["opacity"], loaded["start"], loaded["fade"], loaded["safe_area"]) == (1, 0, 0, False)
    assert OverlayParams().load(OverlayParams().dump(loaded)) == loaded


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({}, "text", "Give exactly one of text, url_image, url_video, not none."),
        ({**TEXT, **IMAGE}, "url_image", "not text and url_image"),
        ({**IMAGE, **VIDEO}, "url_video", "not url_image and url_video"),
        ({**TEXT, **IMAGE, **VIDEO}, "text", "not text and url_image and url_video"),
        ({"text": "x" * 100_000}, "text", f"between 1 and {MAX_TEXT}"),
        ({**IMAGE, "style": {}}, "style", "Only a text has a style."),
        ({**TEXT, "volume": 0.5}, "volume", "Only a video has a volume."),
        ({**TEXT, "start": 3, "end": 3}, "end", "Must be after `start`."),
        ({**TEXT, "start": -1}, "start", "Must be from 0"),
        ({**TEXT, "x": 1.01}, "x", "Must be from 0 to 1."),
        ({**TEXT, "width": 0}, "width", "Must be from 0.01 to 1."),
        ({**TEXT, "position": "center"}, "position", "Must be one of"),
        ({**TEXT, "opcity": 1}, "opcity", "Unknown field."),
    ],
)
def test_mistakes_are_refused_by_name(given: dict[str, Any], field: str, said: str) -> None:
    assert said in str(OverlayParams().validate(given)[field])


@pytest.mark.parametrize("field", ["position", "margin_x", "margin_y", "max_lines", "highlight"])
def test_a_text_has_a_place_and_no_spoken_words(field: str) -> None:
    assert OverlayParams().validate({**TEXT, "style": {field: 1}}) == {"style": {field: ["Unknown field."]}}


def test_a_thousand_overlays_are_refused() -> None:
    assert FilmParams().validate({"overlays": [TEXT] * 1000}) == {"overlays": [f"At most {MAX_OVERLAYS} overlays."]}
    assert not FilmParams().validate({"overlays": [TEXT] * MAX_OVERLAYS})


def test_the_assets_are_found_by_their_paths() -> None:
    assert kinds(FilmParams()) == {
        "overlays[].url_image": "image",
        "overlays[].url_video": "video",
        "overlays[].style.url_font": "font",
    }
