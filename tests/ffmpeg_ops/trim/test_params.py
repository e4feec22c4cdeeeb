from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from ffmpeg_ops.operation import OPERATIONS


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "start"),
        ({"start": -1}, "start"),
        ({"start": 2, "end": 2}, "end"),
        ({"end": 0}, "end"),
        ({"end": 2, "duration": 1}, "duration"),
        ({"duration": 0}, "duration"),
        ({"start": 1, "parts": [{"start": 2}]}, "start"),
        ({"parts": []}, "parts"),
        ({"parts": [{"start": 1}] * 101}, "parts"),
        ({"parts": [{"start": 3, "end": 1}]}, "parts"),
        ({"start": 1, "stop": 2}, "stop"),
    ],
)
def test_invalid_params_are_refused_by_name(params: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OPERATIONS["trim"].params().load({"url_video": "https://example.com/a.mp4", **params})
    assert field in caught.value.messages_dict
