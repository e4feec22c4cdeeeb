"""`nearest`: the name that was meant, or none."""

from __future__ import annotations

import pytest
from marshmallow import fields

from common.suggestions import FIELD_GUESSES, OPERATION_GUESSES, _squeezed, nearest
from ffmpeg_ops.operation import OPERATIONS

FIELDS = ("url_video", "url_image", "frame_rate", "duration", "style.size", "style.font", "size")


@pytest.mark.parametrize(
    ("guess", "meant"),
    [
        ("duration", "duration"),
        ("Duration", "duration"),
        ("video_url", "url_video"),
        ("ImageURL", "url_image"),
        ("imageUrl", "url_image"),
        ("image-url", "url_image"),
        ("FRAMERATE", "frame_rate"),
        ("fps", "frame_rate"),
        ("dur", None),
        ("durations", "duration"),
        ("url", "url_video"),
        ("photo", "url_image"),
        ("font", "style.font"),
        ("style.font", "style.font"),
        ("srt", None),
        ("", None),
        ("é", None),
        ("duration" * 9, None),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(guess: str, meant: str | None) -> None:
    assert nearest(guess, FIELDS, FIELD_GUESSES) == meant


def test_every_guess_can_be_written_and_means_something() -> None:
    names = {"webhook_url", "reference", "filename"}
    for operation in OPERATIONS.values():
        for name, field in operation.params().fields.items():
            names |= {name, *(field.schema.fields if isinstance(field, fields.Nested) else ())}
    for guesses, known in ((FIELD_GUESSES, names), (OPERATION_GUESSES, set(OPERATIONS))):
        for guess, meant in guesses.items():
            assert guess == _squeezed(guess)
            assert known & set(meant), guess
