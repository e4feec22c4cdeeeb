from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from ffmpeg_ops.operation import OPERATIONS

URLS = {"url_video": "https://example.com/v.mp4", "url_audio": "https://example.com/a.mp3"}


def load(**params: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = OPERATIONS["adicionaAudio"].params().load({**URLS, **params})
    return loaded


def test_two_urls_are_enough() -> None:
    loaded = load()
    assert (loaded["mode"], loaded["length"], loaded["volume"], loaded["loop"]) == ("replace", "video", 1, False)
    assert load(loudness=None)["loudness"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "add"),
        *(("volume", value) for value in (-0.1, 11, "-6dB", float("nan"))),
        *[("original_volume", -1), ("start", -1), ("start", float("inf")), ("loop", "often"), ("length", "longest")],
        *[("fade_in", -1), ("fade_out", 61), ("ducking", True), ("loudness", 0), ("loudness", -70)],
    ],
)
def test_invalid_values_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        load(**{"mode": "mix", name: value})
    assert list(caught.value.normalized_messages()) == [name]


@pytest.mark.parametrize(
    "params",
    [{"ducking": "new"}, {"original_volume": 0.5}, *({"loop": True, "length": to} for to in ("audio", "shortest"))],
)
def test_params_that_exclude_each_other_are_refused_by_name(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Needs") as caught:
        load(**params)
    assert list(caught.value.normalized_messages()) == [next(iter(params))]
