"""What `frame` takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from ffmpeg_ops.operation import OPERATIONS
from wire.media_types import JPEG, PNG, WEBP

URL = {"url_video": "https://example.com/video.mp4"}


def load(**params: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = OPERATIONS["frame"].params().load({**URL, **params})
    return loaded


@pytest.mark.parametrize(
    ("given", "loaded"),
    [
        (0, 0.0),
        ("1.5", 1.5),
        (" last ", "last"),
        (["first", "2", 3.25], ["first", 2.0, 3.25]),
        ([14400] * 100, [14400.0] * 100),
    ],
)
def test_moments_are_numbers_words_or_lists_of_them(given: Any, loaded: Any) -> None:
    assert load(at=given)["at"] == loaded
    assert load()["at"] == "middle"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (-0.1, "Must be from 0 to 14400 seconds."),
        (14401, "Must be from 0 to 14400 seconds."),
        ("nan", "Must be from 0 to 14400 seconds."),
        ("inf", "Must be from 0 to 14400 seconds."),
        ("end", "Must be seconds, or one of: first, middle, last."),
        (True, "Must be seconds, or one of: first, middle, last."),
        ({"s": 1}, "Must be seconds, or one of: first, middle, last."),
        ([], "Must be one moment, or a list of 1 to 100."),
        ([1] * 101, "Must be one moment, or a list of 1 to 100."),
        ([[1]], {0: ["Must be seconds, or one of: first, middle, last."]}),
        (
            [1, -1, 2, "x"],
            {1: ["Must be from 0 to 14400 seconds."], 3: ["Must be seconds, or one of: first, middle, last."]},
        ),
    ],
)
def test_other_moments_are_refused_by_their_place(given: Any, message: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        load(at=given)
    found = caught.value.normalized_messages()["at"]
    assert found == (message if isinstance(message, dict) else [message])


def test_outputs_are_named_and_typed_by_the_params() -> None:
    operation = OPERATIONS["frame"]
    assert operation.declared(load()) == {"frame": JPEG}
    assert operation.declared(load(at=["first"], format="png")) == {"frame_1": PNG}
    several = operation.declared(load(at=[1, 2, "last"], format="webp"))
    assert several == {"frame_1": WEBP, "frame_2": WEBP, "frame_3": WEBP}
