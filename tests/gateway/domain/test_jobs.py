"""`Job`: what follows from its fields."""

from __future__ import annotations

import pytest

from gateway.domain.outputs import Output
from tests.gateway.conftest import START_MS, new_job

ONE = {"video": Output("mp4")}
TWO = {**ONE, "poster": Output("jpeg")}


@pytest.mark.parametrize(
    ("filename", "outputs", "names"),
    [
        ("Meu filme", ONE, ["Meu filme.mp4"]),
        ("film.mp4", ONE, ["film.mp4"]),
        ("film.MP4", ONE, ["film.mp4"]),
        ("film.jpg", ONE, ["film.mp4"]),
        ("film.v2", ONE, ["film.v2.mp4"]),
        (".mp4", ONE, [".mp4"]),
        ("..", ONE, ["...mp4"]),
        ("film.mp4", TWO, ["film-video.mp4", "film-poster.jpg"]),
    ],
)
def test_an_output_is_downloaded_under_the_name_that_the_client_set(
    filename: str, outputs: dict[str, Output], names: list[str]
) -> None:
    """`file_name`: with the extension of the file, whatever extension the client wrote."""
    job = new_job(START_MS, filename=filename, outputs=outputs)
    assert [job.file_name(name) for name in outputs] == names


def test_without_a_name_an_output_is_downloaded_under_that_of_its_job() -> None:
    job = new_job(START_MS, outputs=TWO)
    assert [job.file_name(name) for name in TWO] == [f"{job.id}-video.mp4", f"{job.id}-poster.jpg"]
