"""Films: every one is decoded again, and its frames are compared with what the scenes should show."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ffmpeg_ops.operation import StopSignal
from tests.ffmpeg_ops import media as look
from tests.ffmpeg_ops.compose.films import BLUE, GREEN, RED, SIZE, colors, compose, counting, numbers, shows
from tests.ffmpeg_ops.media import Media, VideoWork, frame_count
from wire.errors import AssetInvalid, AssetTooLarge, Cancelled, InvalidParams, JobError


@pytest.fixture
def still(tmp_path: Path) -> Path:
    path = tmp_path / "still.png"
    Image.new("RGB", (200, 100), RED).save(path)
    return path


# --- scenes ----------------------------------------------------------------------------------------------------------


def test_scenes_follow_each_other_at_exact_frames(work: VideoWork, still: Path) -> None:
    scenes = [{"url_image": still, "duration": 0.3}, {"color": GREEN, "duration": 0.25}, {"color": BLUE}]
    result = compose(work, scenes)
    made = colors(work)
    assert len(made) == 56, "0.3 s, 0.25 s and 5 s"
    for frames, wanted in ((made[:3], RED), (made[3:6], GREEN), (made[6:], BLUE)):
        assert all(shows(frame, wanted) for frame in frames)
    assert result["result"]["scenes"] == [
        {"start": 0, "duration": 0.3},
        {"start": 0.3, "duration": 0.3},
        {"start": 0.6, "duration": 5},
    ]
    assert (result["frames"], result["duration_s"], result["width"], result["height"]) == (56, 5.6, 96, 64)
    assert "warnings" not in result
    assert work.shares == sorted(work.shares)
    assert work.shares[-1] == 1


def test_one_still_looks_as_img2vid_makes_it(work: VideoWork, tmp_path: Path) -> None:
    path, other = tmp_path / "noise.png", replace(work, directory=tmp_path)
    noise = np.random.default_rng(1).integers(0, 255, (120, 200, 3), np.uint8)
    Image.fromarray(noise).resize((400, 240), Image.Resampling.BICUBIC).save(path)
    still = {"duration": 1, "motion": "pan_right", "easing": "ease_in_out"}
    compose(work, [{"url_image": path, **still}])
    look.run("img2vid", other, {"size": SIZE, "frame_rate": 10, **still}, url_image=path)
    assert look.packets_md5(work.video) == look.packets_md5(other.output("video"))


def test_a_still_that_does_not_move_fills_its_scene(work: VideoWork, still: Path) -> None:
    compose(work, [{"url_image": still, "motion": "none", "duration": 0.7}])
    assert len(colors(work)) == 7


def test_a_clip_lasts_to_its_end_from_its_start(work: VideoWork, media: Media) -> None:
    compose(work, [{"url_video": counting(media, 8), "start": 0.3}])
    assert numbers(work) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("when_short", "shown"), [("freeze", [5, 6, 7, 7, 7, 7, 7, 7]), ("loop", [5, 6, 7, 5, 6, 7, 5, 6])]
)
def test_a_clip_that_is_too_short_freezes_or_loops(
    work: VideoWork, media: Media, when_short: str, shown: list[int]
) -> None:
    clip = {"url_video": counting(media, 8), "start": 0.5, "duration": 0.8, "when_short": when_short}
    compose(work, [clip])
    assert numbers(work) == shown


def test_a_clip_plays_on_under_the_next_transition(work: VideoWork, media: Media) -> None:
    """Of two equal clips that are blended, the mean shows which of their frames were seen together."""
    clip = {"url_video": counting(media, 8)}
    fading = {**clip, "duration": 0.6, "transition": {"type": "crossfade", "duration": 0.4}}
    compose(work, [{**clip, "duration": 0.4}, fading])
    assert len(numbers(work)) == 10
    assert numbers(work)[:4] == [0, 1, 2, 3]
    mixed = [round(7 / 8 * 4 + 1 / 8 * 0), round(5 / 8 * 5 + 3 / 8 * 1), round(3 / 8 * 6 + 5 / 8 * 2)]
    assert numbers(work)[4:7] == mixed
    assert numbers(work)[8:] == [4, 5]


def test_transitions_do_not_change_the_length(work: VideoWork) -> None:
    scenes = [{"color": color, "duration": 0.5} for color in (RED, GREEN, BLUE)]
    for scene in scenes:
        scene["transition"] = {"type": "fade", "duration": 0.4}
    compose(work, scenes)
    made = colors(work)
    assert len(made) == 15
    assert made[0].mean() < made[1].mean() < made[3].mean(), "the first scene comes in from black"
    assert shows(made[4], RED)
    assert shows(made[9], GREEN)
    assert shows(made[14], BLUE)
    assert max(made[6].mean(), made[7].mean()) < 40, "half-way it is dark"


# --- layers ----------------------------------------------------------------------------------------------------------


def test_layers_lie_in_the_order_of_the_design(work: VideoWork, tmp_path: Path) -> None:
    """Scene, its overlays, the film's, and captions above all; later in a list is above."""
    squares = {}
    for name, color in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        squares[name] = tmp_path / f"{name}.png"
        Image.new("RGB", (60, 60), color).save(squares[name])
    here = {"position": "middle-center", "margin": 0}
    scene = {
        "color": "#FFFFFF",
        "duration": 0.2,
        "overlays": [
            {"url_image": squares["red"], "width": 0.6, **here},
            {"url_image": squares["green"], "width": 0.4, **here},
        ],
    }
    compose(work, [scene], overlays=[{"url_image": squares["blue"], "width": 0.2, **here}])
    row = look.frames(work.video, gray=False)[0][32].astype(float)
    for x, color in ((4, "#FFFFFF"), (22, RED), (33, GREEN), (48, BLUE)):
        assert np.abs(row[x] - list(bytes.fromhex(color[1:]))).max() < 25, x


def test_captions_are_drawn_over_everything_and_fade_with_the_film(work: VideoWork) -> None:
    caption = {
        "words": [{"word": "XXXXXXXX", "start": 0, "end": 2}],
        "style": {"position": "middle-center", "size": 0.3},
    }
    compose(work, [{"color": "#202020", "duration": 2}], captions=caption, fade_out=1)
    brightest = look.frames(work.video).max(axis=(1, 2))
    assert brightest[5] > 220
    assert brightest[10] > brightest[14] > brightest[19]
    assert brightest[19] < 40


def test_an_overlay_of_a_scene_moves_with_its_transition_and_the_film_s_does_not(work: VideoWork, still: Path) -> None:
    square = {"url_image": still, "width": 0.1, "position": "middle-left", "margin": 0}
    scenes = [
        {"color": "#FFFFFF", "duration": 0.5, "overlays": [square]},
        {"color": "#FFFFFF", "duration": 0.5, "transition": {"type": "slide_right", "duration": 0.4}},
    ]
    compose(work, scenes, overlays=[{**square, "position": "top-left"}])
    reds = look.frames(work.video, gray=False)[:, :, :, 1] < 120
    middle = [frame[32].nonzero()[0] for frame in reds]
    assert middle[4][0] == 0
    assert middle[4][0] < middle[6][0] < middle[7][0], "it is carried to the right"
    assert not reds[9][32].any()
    assert all(frame[1, 1] for frame in reds), "the film's stays"


def test_a_video_lies_in_the_picture_for_its_time(work: VideoWork, media: Media) -> None:
    inset = {"url_video": counting(media, 8), "width": 0.5, "position": "middle-center", "start": 0.2, "end": 0.6}
    compose(work, [{"color": "#000000", "duration": 1}], overlays=[inset])
    shown = look.frames(work.video)[:, 32, 48].astype(float)
    assert [round((16 + value * 219 / 255 - 40) / 10) for value in shown[2:6]] == [0, 1, 2, 3]
    assert max(shown[0], shown[1], *shown[6:]) < 10


def test_a_poster_shows_its_moment_with_captions(work: VideoWork, tmp_path: Path) -> None:
    scenes = [{"color": RED, "duration": 0.5}, {"color": BLUE, "duration": 0.5}]
    captions = {"words": [{"word": "X", "start": 0, "end": 1}], "style": {"size": 0.3, "position": "middle-center"}}
    compose(work, scenes, poster={"at": 0.5}, captions=captions)
    with Image.open(work.directory / "output-poster.jpg") as poster:
        assert (poster.format, poster.size) == ("JPEG", (96, 64))
        pixels = np.asarray(poster.convert("RGB")).astype(float)
    assert shows(pixels[2:8, 2:8].mean(axis=(0, 1)), BLUE)
    assert pixels.min(axis=2).max() > 200, "the caption is white"


# --- what is wrong ---------------------------------------------------------------------------------------------------


def error(work: VideoWork, scenes: list[dict[str, Any]], **params: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        compose(work, scenes, **params)
    assert not work.video.exists(), "nothing was encoded"
    return caught.value


def test_a_file_that_is_no_picture_is_found_before_the_first_frame(
    work: VideoWork, still: Path, tmp_path: Path
) -> None:
    text = tmp_path / "page.html"
    text.write_text("<html>not found</html>")
    found = error(work, [{"url_image": still}] * 39 + [{"url_image": text}])
    assert isinstance(found, AssetInvalid)
    assert found.message.startswith("scenes[39].url_image: the file is")


def test_a_picture_that_is_too_large_is_found_before_the_first_frame(work: VideoWork, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (12_000, 9000)).save(path)
    found = error(work, [{"color": RED}, {"url_image": path}])
    assert isinstance(found, AssetTooLarge)
    assert found.message.startswith("scenes[1].url_image: ")


def test_a_clip_that_cannot_be_read_is_named_by_its_path(work: VideoWork, still: Path) -> None:
    found = error(work, [{"color": RED}, {"color": RED, "overlays": [{"url_video": still}]}])
    assert isinstance(found, AssetInvalid)
    assert found.message.startswith("scenes[1].overlays[0].url_video: ")


@pytest.mark.parametrize(
    ("scene", "params", "says"),
    [
        ({"start": 0.8}, {}, "scenes[0].start: the clip ends after 0.80 seconds."),
        ({}, {"poster": {"at": 1}}, "poster.at: the film ends after 0.80 seconds."),
        (
            {},
            {"overlays": [{"text": "x", "start": 1}]},
            "overlays[0].start: 1 s is not before the end, which is at 0.8 s.",
        ),
    ],
)
def test_a_moment_after_the_end_is_refused(
    work: VideoWork, media: Media, scene: dict[str, Any], params: dict[str, Any], says: str
) -> None:
    found = error(work, [{"url_video": counting(media, 8), **scene}], **params)
    assert isinstance(found, InvalidParams)
    assert found.message == says


@pytest.mark.slow
def test_only_two_videos_lie_over_a_film_at_a_time(work: VideoWork, media: Media) -> None:
    inset = {"url_video": counting(media, 8), "width": 0.2}
    found = error(work, [{"color": RED, "duration": 1}], overlays=[inset, inset, {**inset, "start": 0.5}])
    assert found.message == "overlays[2]: at most 2 videos may lie over the film at a time."
    compose(work, [{"color": RED, "duration": 1}], overlays=[{**inset, "end": 0.5}, inset, {**inset, "start": 0.5}])
    assert frame_count(work.video) == 10


def test_a_film_that_is_too_long_is_refused(work: VideoWork, still: Path) -> None:
    found = error(work, [{"url_image": still}, {"color": RED, "duration": 900}])
    assert "905 s" in found.message
    assert "900 s" in found.message


@pytest.mark.slow
def test_a_film_that_is_cancelled_leaves_no_process(work: VideoWork, media: Media, still: Path) -> None:
    stopped = replace(work, stop=StopSignal(), progress=lambda share: share > 0.2 and timer.start())
    timer = threading.Timer(0, lambda: stopped.stop.set(Cancelled()))
    clip = {"url_video": counting(media, 8), "duration": 60, "when_short": "loop"}
    with pytest.raises(Cancelled):
        compose(stopped, [clip, {"url_image": still, "duration": 600}], overlays=[{"url_video": counting(media, 8)}])
    assert not stopped.processes
