from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from ffmpeg_ops.operation import OPERATIONS

URL = "https://example.com/a.mp4"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "url_videos"),
        ({"url_videos": [URL]}, "url_videos"),
        ({"url_videos": [URL] * 101}, "url_videos"),
        ({"url_videos": [URL, "ftp://example.com/a"]}, "url_videos"),
        ({"url_videos": [URL, URL], "size": "17x16"}, "size"),
        ({"url_videos": [URL, URL], "frame_rate": 0}, "frame_rate"),
        ({"url_videos": [URL, URL], "fit": "stretch"}, "fit"),
        ({"url_videos": [URL, URL], "transition": "fade"}, "transition"),
    ],
)
def test_invalid_params_are_refused_by_name(params: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OPERATIONS["join"].params().load(params)
    assert field in caught.value.messages_dict
